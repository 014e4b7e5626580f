// GGUF files of the Llama family: architecture "llama", with the tokenizer that they carry.
#pragma once

#include <filesystem>
#include <functional>

#include "harmonic/convert/llama.h"

namespace harmonic {

struct GgufOptions {
  std::filesystem::path tokenizer = {};  // empty for the one in the file
  // Matrices of Q8_0 and Q4_1 stay packed as they are, the only form of them in memory: a model to run, with
  // the same bits, and not to save. Otherwise all numbers are widened to f32.
  bool keep_blocks = false;
  // May alter the configuration, but not what its tensors are.
  std::function<void(ModelConfig&)> change = {};
};

// Throws Error: for a file that is damaged, and, by name, for what is not supported or would compute
// something else here.
PretrainedModel read_gguf(const std::filesystem::path& path, const GgufOptions& options,
                          const Backend& backend);

}  // namespace harmonic
