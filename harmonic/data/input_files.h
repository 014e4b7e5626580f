// data: text from files to batches of tokens. Readers, token shards with their cache, loaders, evaluation
// windows. Everything read from outside is checked; everything random is a function of a seed and a step.
//
// This file: which files a list of inputs means.
#pragma once

#include <string>
#include <vector>

namespace harmonic {

struct InputFile {
  std::string path;   // "-" is standard input
  size_t input = 0;   // index of the input it comes from
  bool named = true;  // named itself, rather than found in a folder or by a pattern
};

// Each input is a file, a folder (every regular file below it, sorted by name; names that begin with a dot
// are left out, linked folders are not entered), a pattern with * ? [ ] (and ** for any depth of folders), or
// "-" for standard input, at most once. A path that exists is never taken for a pattern, nor is a folder that
// exists within one. Throws Error for an input that is missing, that holds no file or matches none, and for
// an empty list.
std::vector<InputFile> list_input_files(const std::vector<std::string>& inputs);

}  // namespace harmonic
