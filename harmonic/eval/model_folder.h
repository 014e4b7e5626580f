// A model folder in the Hugging Face layout: config.json, model.safetensors, tokenizer.json,
// generation_config.json.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "harmonic/model/model.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

struct LoadedModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::string chat_template = {};  // its name (tokenizer/chat_template.h); empty where the model has none
};

// Reads a whole folder and checks that its parts belong together: the tensors are the configuration's, the
// tokenizer has its vocabulary and end-of-text token and is the one the weights were trained with. `trained`
// gives the parameters gradients. The backend must outlive the model. Throws Error naming the file, what was
// expected and what was found.
// `change`, where given, may alter the configuration before the model is made, but not what its tensors are.
LoadedModel load_model_folder(const std::filesystem::path& folder, const Backend& backend,
                              bool trained = false, const std::function<void(ModelConfig&)>& change = {});

// The tokenizer of a folder alone, checked against `config`.
std::unique_ptr<Tokenizer> load_folder_tokenizer(const std::filesystem::path& folder,
                                                 const ModelConfig& config);

// Throws Error, naming `source`, unless the tokenizer has the model's vocabulary and the tokens that begin
// and end its texts.
void check_tokenizer(const ModelConfig& config, const Tokenizer& tokenizer, const std::string& source);
// Gives the configuration what check_tokenizer() asks for.
void take_vocabulary(ModelConfig& config, const Tokenizer& tokenizer);

// Writes the four files. A folder that is not there yet appears when it is complete; in one that is, each
// file is replaced when it is complete, the weights last. Throws Error; what was there before is untouched
// but for the files already replaced.
void save_model_folder(const std::filesystem::path& folder, const Model& model, const Tokenizer& tokenizer,
                       const std::string& chat_template = "");

// The same into an existing folder, file by file.
void write_model_files(const std::filesystem::path& folder, const Model& model, const Tokenizer& tokenizer,
                       const std::string& chat_template = "");
// All but the weights.
void write_model_description(const std::filesystem::path& folder, const ModelConfig& config,
                             const Tokenizer& tokenizer, const std::string& chat_template = "");

}  // namespace harmonic
