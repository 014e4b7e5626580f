// Hugging Face folders of the Llama family: config.json, model.safetensors or its shards, a tokenizer.
#pragma once

#include <filesystem>
#include <string_view>

#include "harmonic/convert/llama.h"

namespace harmonic {

// Throws Error: for a folder that is damaged, and for a model that would compute something else here, by the
// name of the key in its config.json. `tokenizer` may be empty for the one in the folder.
PretrainedModel read_hugging_face(const std::filesystem::path& folder, const std::filesystem::path& tokenizer,
                                  const Backend& backend);

// What a config.json says of a Llama; `source` names it. The tokens that begin and end a text are -1 where it
// does not say.
struct HuggingFaceConfig {
  LlamaShape shape;
  int64_t bos = -1, eos = -1;
};
HuggingFaceConfig read_hugging_face_config(std::string_view text, std::string_view source);

}  // namespace harmonic
