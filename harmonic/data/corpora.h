// The corpora that are known by name: where each is had, what it must be, and how it is divided.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace harmonic {

// A part of a text, by its place in bytes: written to a file of its own.
struct CorpusPart {
  std::string file;
  int64_t begin = 0, bytes = 0;
};

struct CorpusSplit {
  std::string name;  // "90/5/5"
  std::vector<CorpusPart> parts;
};

struct Corpus {
  std::string name;
  std::string about;  // what it is, its licence
  // The file to be downloaded; no addresses: it is had by hand only.
  std::vector<std::string> addresses;  // tried in this order
  std::string file;                    // its name; a mirror has it under the same
  int64_t bytes = 0;
  std::string sha256;
  // What of a packed file is unpacked beside it, under these names; none: the file is used as it is.
  struct Member {
    std::string member, file;
    int64_t bytes = 0;   // 0: not known; the packed file's checksum vouches for it
    std::string sha256;  // empty: likewise
  };
  std::vector<Member> members;
  std::vector<CorpusSplit> splits;  // of the first member; the first is the default
  std::string by_hand;              // how to come by it where it cannot be downloaded
  std::string format = "auto";      // how its documents are told apart
};

const std::vector<Corpus>& corpora();
// Throws Error (usage), naming those there are.
const Corpus& corpus_named(std::string_view name);

}  // namespace harmonic
