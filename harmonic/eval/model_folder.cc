#include "harmonic/eval/model_folder.h"

#include <unistd.h>

#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/model/weights.h"
#include "harmonic/tokenizer/chat_template.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

// The entry of the weights' metadata that names the tokenizer they were trained with, by its hash.
constexpr const char* kTokenizerKey = "tokenizer_sha256";

void check_folder(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder, ignored))
    fail("{}: no such folder; expected a model folder with config.json, model.safetensors and tokenizer.json",
         folder.string());
  if (!fs::is_directory(folder, ignored))
    fail(
        "{}: is a file; expected a model folder with config.json, model.safetensors and tokenizer.json, as "
        "harmonic convert makes one of a pretrained model",
        folder.string());
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    if (!fs::exists(folder / name, ignored))
      fail("{}: not a model folder: it has no {}; harmonic convert makes one of a pretrained model's files",
           folder.string(), name);
  }
}

constexpr const char* kGenerationConfig = "generation_config.json";
constexpr const char* kChatTemplate = "chat_template";

std::string generation_config(const ModelConfig& config, const std::string& chat_template) {
  Json json = {{"bos_token_id", config.bos()}, {"eos_token_id", config.eot_token_id}};
  if (!chat_template.empty()) json[kChatTemplate] = chat_template;
  return json.dump(2) + '\n';
}

std::string read_chat_template(const fs::path& folder, const Tokenizer& tokenizer) {
  const fs::path path = folder / kGenerationConfig;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return "";
  const Json file = read_json(path, 1 << 20);
  const auto found = file.is_object() ? file.find(kChatTemplate) : file.end();
  if (!file.is_object()) fail("{}: expected a JSON object", path.string());
  if (found == file.end()) return "";
  if (!found->is_string()) fail("{}: {} is no text", path.string(), kChatTemplate);
  const auto name = found->get<std::string>();
  try {
    ChatTemplate(name, tokenizer);
  } catch (const Error& error) {
    fail("{}: {}", path.string(), error.what());
  }
  return name;
}

}  // namespace

void check_tokenizer(const ModelConfig& config, const Tokenizer& tokenizer, const std::string& source) {
  if (tokenizer.vocab_size() != config.vocab_size)
    fail("{}: the tokenizer has {} tokens; the model's configuration expects {}: they do not belong together",
         source, tokenizer.vocab_size(), config.vocab_size);
  if (tokenizer.eot() != config.eot_token_id)
    fail(
        "{}: the tokenizer's end-of-text token is {}; the model's configuration expects {}: they do not "
        "belong together",
        source, tokenizer.eot(), config.eot_token_id);
  if (tokenizer.bos() != config.bos())
    fail(
        "{}: the tokenizer's begin-of-text token is {}; the model's configuration expects {}: they do not "
        "belong together",
        source, tokenizer.bos(), config.bos());
}

void take_vocabulary(ModelConfig& config, const Tokenizer& tokenizer) {
  config.vocab_size = tokenizer.vocab_size();
  config.eot_token_id = tokenizer.eot();
  config.bos_token_id.reset();
  if (tokenizer.bos() != tokenizer.eot()) config.bos_token_id = tokenizer.bos();
}

std::unique_ptr<Tokenizer> load_folder_tokenizer(const fs::path& folder, const ModelConfig& config) {
  const fs::path path = folder / "tokenizer.json";
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path);
  check_tokenizer(config, *tokenizer, path.string());
  return tokenizer;
}

LoadedModel load_model_folder(const fs::path& folder, const Backend& backend, bool trained,
                              const std::function<void(ModelConfig&)>& change) {
  check_folder(folder);
  ModelConfig config = load_model_config(folder);
  if (change) change(config);
  LoadedModel loaded;
  loaded.tokenizer = load_folder_tokenizer(folder, config);
  loaded.chat_template = read_chat_template(folder, *loaded.tokenizer);
  loaded.model = std::make_unique<Model>(config, backend, trained);
  const Metadata metadata = load_weights(folder / "model.safetensors", loaded.model->parameters());
  const auto hash = metadata.find(kTokenizerKey);
  if (hash != metadata.end() && hash->second != loaded.tokenizer->hash())
    fail("{}: another tokenizer than the one the weights were trained with (hash {:.12}, expected {:.12})",
         (folder / "tokenizer.json").string(), loaded.tokenizer->hash(), hash->second);
  return loaded;
}

void write_model_description(const fs::path& folder, const ModelConfig& config, const Tokenizer& tokenizer,
                             const std::string& chat_template) {
  check_tokenizer(config, tokenizer, folder.string());
  write_file(folder / "config.json", config.to_json());
  write_file(folder / kGenerationConfig, generation_config(config, chat_template));
  write_file(folder / "tokenizer.json", tokenizer.to_json());
}

void write_model_files(const fs::path& folder, const Model& model, const Tokenizer& tokenizer,
                       const std::string& chat_template) {
  write_model_description(folder, model.config(), tokenizer, chat_template);
  save_weights(folder / "model.safetensors", model.parameters(), {{kTokenizerKey, tokenizer.hash()}});
}

void save_model_folder(const fs::path& folder, const Model& model, const Tokenizer& tokenizer,
                       const std::string& chat_template) {
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_directory(folder, error))
    fail("{}: a file stands there; a model folder was to be written", folder.string());
  if (fs::exists(folder, error)) {
    const bool was_empty = fs::is_empty(folder, error);
    try {
      write_model_files(folder, model, tokenizer, chat_template);
    } catch (...) {
      if (was_empty)
        for (const auto& entry : fs::directory_iterator(folder, error)) fs::remove(entry.path(), error);
      throw;
    }
    return;
  }
  // "models/a/" names the folder "models/a".
  const fs::path whole = folder.has_filename() ? folder : folder.parent_path();
  const fs::path parent = whole.has_parent_path() ? whole.parent_path() : ".";
  const fs::path temporary =
      parent / fmt::format(".{}.{}.tmp", whole.filename().string(), static_cast<int64_t>(::getpid()));
  make_folder(temporary);
  try {
    write_model_files(temporary, model, tokenizer, chat_template);
    fs::rename(temporary, whole, error);
    if (error) fail("{}: cannot rename into place: {}", whole.string(), error.message());
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
  sync_folder(parent);
}

}  // namespace harmonic
