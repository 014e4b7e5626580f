// GGUF files of the Llama family: architecture "llama", with the tokenizer that they carry.
#pragma once

#include <filesystem>

#include "harmonic/convert/llama.h"

namespace harmonic {

// Packed numbers are widened to f32. `tokenizer` may be empty for the one in the file. Throws Error: for a
// file that is damaged, and, by name, for what is not supported or would compute something else here.
PretrainedModel read_gguf(const std::filesystem::path& path, const std::filesystem::path& tokenizer,
                          const Backend& backend);

}  // namespace harmonic
