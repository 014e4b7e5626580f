// convert: pretrained models of other programs, read as models of this one. Each format has its file; what
// they share, the sizes of a Llama and how its weights fill a model's, is in llama.h.
//
// Weights are taken over bit for bit (bf16, f16 and packed ones widened), in another order where the formats
// differ.
#pragma once

#include <filesystem>
#include <string>

#include "harmonic/convert/llama.h"

namespace harmonic {

// Reads a Hugging Face folder of the Llama family, a GGUF file or a llama2.c checkpoint, told apart by what
// is there. `tokenizer` is the file of a llama2.c tokenizer or any other that load_tokenizer() knows, empty
// for the one beside the model. The backend must outlive the model. Throws Error naming the file, what was
// expected, what was found and what would do.
PretrainedModel read_pretrained(const std::filesystem::path& from, const std::filesystem::path& tokenizer,
                                const Backend& backend);

}  // namespace harmonic
