// A corpus that is known by name, downloaded, unpacked and divided.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/data/corpora.h"

namespace harmonic {

struct FetchOptions {
  std::filesystem::path folder;  // made where it is missing
  std::string mirror;  // the address of a folder with the file in place of the corpus's own; or empty
  std::string split;   // of the corpus's splits; empty: the first
};

// Returns the texts: the parts of the split, else the unpacked files, else the file itself. What stands in
// the folder as it must be is not downloaded again. Throws Error, for a corpus that is had by hand only with
// how; and Interrupted, after which the same call goes on. One process at a time fetches into a folder.
std::vector<std::filesystem::path> fetch_corpus(const Corpus& corpus, const FetchOptions& options);

}  // namespace harmonic
