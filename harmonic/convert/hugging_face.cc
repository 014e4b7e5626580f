#include "harmonic/convert/hugging_face.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "harmonic/base/error.h"
#include "harmonic/base/fields.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/model/safetensors.h"
#include "harmonic/tokenizer/chat_template.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMostTensors = 40'000;  // 4,096 layers have fewer
constexpr int64_t kLongestConfig = int64_t{1} << 20, kLongestIndex = int64_t{1} << 22;

// Without meaning for what a model computes.
const std::set<std::string, std::less<>> kIgnored = {
    "_name_or_path",     "architectures",          "attention_dropout",    "auto_map",     "dtype",
    "initializer_range", "is_llama_config",        "model_type",           "pad_token_id", "pretraining_tp",
    "torch_dtype",       "transformers.js_config", "transformers_version", "use_cache"};

bool is_null(const Value& value) { return std::holds_alternative<std::monostate>(value.data); }

// A config.json, key by key: each is asked for once, and those that nobody asks for are errors.
class ConfigReader {
 public:
  // `section`: of the file, which begins the keys' names.
  ConfigReader(const Value& file, std::string_view source, std::string_view section = "")
      : file_(file), source_(source), section_(section.empty() ? "" : fmt::format("{}.", section)) {
    if (!file.table()) fail("{}: expected a JSON object with the configuration of a model", source);
  }

  // The value of a key; null where it is missing or null.
  const Value* find(std::string_view key) {
    asked_.emplace(key);
    const Value* value = file_.find(key);
    return value && !is_null(*value) ? value : nullptr;
  }
  // Sets `target` where the key is there.
  template <typename T>
  void read(std::string_view key, T* target, double least, double most) {
    if (const Value* value = find(key))
      set_field(Field(std::string(key), target, "").range(least, most), *value, section_ + std::string(key));
  }
  template <typename T>
  void require(std::string_view key, T* target, double least, double most) {
    if (!find(key)) fail("{}: the key \"{}\" is missing", source_, key);
    read(key, target, least, most);
  }
  // A key that may say only one thing, and says it where it is missing.
  void expect(std::string_view key, std::string_view supported) {
    const Value* value = find(key);
    if (value && inline_text(*value) != supported)
      fail("{}: {} = {} is not supported; only {} is", source_, key, inline_text(*value), supported);
  }
  void refuse(std::string_view key) {
    if (const Value* value = find(key))
      fail("{}: {} = {} is not supported yet; only null is", source_, key, inline_text(*value));
  }
  void finish() const {
    std::vector<std::string> known(asked_.begin(), asked_.end());
    for (const auto& [key, value] : *file_.table())
      if (!asked_.contains(key) && !kIgnored.contains(key) && !is_null(value))
        fail(
            "{}: the unknown key \"{}\" ({}) may change what the model computes; take it out if it does "
            "not{}",
            source_, key, inline_text(value), did_you_mean(key, known));
  }

 private:
  const Value& file_;
  std::string source_, section_;
  std::set<std::string, std::less<>> asked_;
};

// What the library computes from these keys: docs/convert.md has the table.
void read_scaling(const Value& parameters, std::string_view file, std::string_view section,
                  LlamaShape& shape) {
  const std::string source = fmt::format("{}: {}", file, section);
  ConfigReader reader(parameters, source, section);
  reader.read("rope_theta", &shape.rope_base, 1e-3, 1e12);
  const Value *type = reader.find("rope_type"), *old_name = reader.find("type");
  if (!type) type = old_name;
  std::string kind = "default";
  if (type) set_field(Field("rope_type", &kind, ""), *type, fmt::format("{}.rope_type", section));
  RopeScaling& rope = shape.rope;
  if (kind == "linear" || kind == "dynamic" || kind == "yarn" || kind == "llama3") {
    rope.kind = kind;
    if (!reader.find("factor")) fail("{}: the key \"factor\" is missing", source);
    reader.read("factor", &rope.factor, 1, 1e6);
  } else if (kind != "default") {
    fail("{}: rope_type = \"{}\" is not supported; default, linear, dynamic, yarn and llama3 are", source,
         kind);
  }
  if (kind == "yarn" || kind == "llama3") {
    rope.context = shape.context;  // what the library takes for yarn where nothing is said
    constexpr const char* kContext = "original_max_position_embeddings";
    if (kind == "llama3") reader.require(kContext, &rope.context, 1, 1 << 30);
    if (kind == "yarn") reader.read(kContext, &rope.context, 1, 1 << 30);
  }
  if (kind == "dynamic") {
    // Beyond its own context the model reaches as far as the factor says.
    rope.context = shape.context;
    shape.context =
        std::min<int64_t>(1 << 30, static_cast<int64_t>(static_cast<double>(shape.context) * rope.factor));
  }
  if (kind == "yarn") {
    reader.read("beta_fast", &rope.turns[0], 1e-3, 1e6);
    reader.read("beta_slow", &rope.turns[1], 1e-3, 1e6);
    reader.read("attention_factor", &rope.attention, 1e-3, 100);
    reader.expect("truncate", "true");
  }
  if (kind == "llama3") {
    rope.turns = {4, 1};
    reader.require("high_freq_factor", &rope.turns[0], 1e-3, 1e6);
    reader.require("low_freq_factor", &rope.turns[1], 1e-3, 1e6);
  }
  reader.finish();
}

// Two forms: of transformers up to 4, rope_theta and rope_scaling; from 5, rope_parameters.
void read_rope(ConfigReader& reader, std::string_view source, LlamaShape& shape) {
  reader.read("rope_theta", &shape.rope_base, 1e-3, 1e12);
  reader.expect("rope_interleaved", "false");
  const Value *old_form = reader.find("rope_scaling"), *parameters = reader.find("rope_parameters");
  if (old_form && parameters)
    fail("{}: both rope_scaling and rope_parameters are there; take the one out that does not hold", source);
  const Value* both = old_form ? old_form : parameters;
  if (both && both->table() && both->find("rope_theta") && reader.find("rope_theta"))
    fail("{}: rope_theta is there twice, once within {}; take the one out that does not hold", source,
         old_form ? "rope_scaling" : "rope_parameters");
  if (old_form) read_scaling(*old_form, source, "rope_scaling", shape);
  if (parameters) read_scaling(*parameters, source, "rope_parameters", shape);
}

// The tensors of all files of a folder, each name once.
class Weights {
 public:
  explicit Weights(const fs::path& folder) : folder_(folder) {
    const fs::path single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    if (is_there(single)) {
      add(single);
    } else if (is_there(index)) {
      add_shards(index);
    } else {
      fail("{}: holds neither model.safetensors nor model.safetensors.index.json{}", folder.string(),
           is_there(folder / "pytorch_model.bin")
               ? "; pytorch_model.bin is not read: save the model again with safe_serialization=True"
               : "");
    }
  }

  // Checks that the tensor is there in this shape and a type that is exact in f32.
  void check(std::string_view name, const std::vector<int64_t>& shape) {
    const auto found = files_of_.find(name);
    if (found == files_of_.end())
      fail("{}: expected a tensor \"{}\" of shape [{}], found none; config.json describes another model",
           folder_.string(), name, fmt::join(shape, ", "));
    const SafetensorsFile& file = files_[found->second];
    const StoredTensor& tensor = file.at(name);
    if (tensor.shape != shape)
      fail("{}: tensor \"{}\": expected shape [{}], found [{}]; config.json describes another model",
           file.path().string(), name, fmt::join(shape, ", "), fmt::join(tensor.shape, ", "));
    if (tensor.type != StoredType::f32 && tensor.type != StoredType::bf16 && tensor.type != StoredType::f16)
      fail("{}: tensor \"{}\": expected F32, BF16 or F16, found {}", file.path().string(), name,
           name_of(tensor.type));
    used_.emplace(name);
  }
  bool has(std::string_view name) const { return files_of_.contains(name); }
  const SafetensorsFile& file_of(std::string_view name) const { return files_[files_of_.find(name)->second]; }

  void check_all_used() const {
    for (const auto& [name, file] : files_of_) {
      // A table that older versions of the library stored.
      if (used_.contains(name) || name.ends_with(".rotary_emb.inv_freq")) continue;
      fail("{}: a tensor \"{}\" that a Llama does not have; config.json describes another model",
           files_[file].path().string(), name);
    }
  }

 private:
  size_t add(const fs::path& path) {
    const size_t number = files_.size();
    files_.emplace_back(path);
    for (const auto& [name, tensor] : files_.back().tensors()) {
      const auto [other, is_new] = files_of_.emplace(name, number);
      if (!is_new)
        fail("{}: tensor \"{}\" is in {} too", path.string(), name, files_[other->second].path().string());
    }
    return number;
  }

  void add_shards(const fs::path& index) {
    const std::string name = index.string();
    const Json file = parse_json(read_file(index, kLongestIndex), name, 8, kMostTensors);
    const auto map = file.is_object() ? file.find("weight_map") : file.end();
    if (!file.is_object() || map == file.end() || !map->is_object() || map->empty())
      fail("{}: expected an object with weight_map, from tensors to files", name);
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : map->items()) {
      const std::string text = shard.is_string() ? shard.get<std::string>() : std::string();
      if (!text.ends_with(".safetensors") || text.find_first_of("/\\") != text.npos || text.starts_with('.'))
        fail("{}: tensor \"{}\" is said to be in {}; expected the name of a file ....safetensors beside it",
             name, tensor, shard.dump());
      shards.insert(text);
    }
    std::map<std::string, size_t> numbers;
    for (const std::string& shard : shards) numbers[shard] = add(index.parent_path() / shard);
    for (const auto& [tensor, shard] : map->items()) {
      const auto found = files_of_.find(tensor);
      if (found == files_of_.end() || found->second != numbers[shard.get<std::string>()])
        fail("{}: tensor \"{}\" is said to be in {}, which does not have it", name, tensor, shard.dump());
    }
    if (map->size() != files_of_.size())
      fail("{}: names {} tensors; its files hold {}: they do not belong together", name, map->size(),
           files_of_.size());
  }

  fs::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t, std::less<>> files_of_;
  std::set<std::string, std::less<>> used_;
};

std::string their_name(const std::string& ours) {
  if (ours == "embed.weight") return "model.embed_tokens.weight";
  if (ours == "head.weight") return "lm_head.weight";
  if (ours == "final_norm.weight") return "model.norm.weight";
  // layers.{i}.PART.weight
  const size_t dot = ours.find('.', 7), end = ours.rfind('.');
  const std::string part = ours.substr(dot + 1, end - dot - 1);
  static const std::map<std::string, std::string, std::less<>> parts = {
      {"mixer_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
      {"mixer.q_proj", "self_attn.q_proj"}, {"mixer.k_proj", "self_attn.k_proj"},
      {"mixer.v_proj", "self_attn.v_proj"}, {"mixer.o_proj", "self_attn.o_proj"},
      {"ffn.gate", "mlp.gate_proj"},        {"ffn.up", "mlp.up_proj"},
      {"ffn.down", "mlp.down_proj"}};
  return "model." + ours.substr(0, dot + 1) + parts.at(part) + ".weight";
}

// The head of tied weights may be stored once more; then it must be the same.
void check_tied_head(Weights& weights, const LlamaShape& shape) {
  const std::string head = their_name("head.weight"), embedding = their_name("embed.weight");
  if (!weights.has(head)) return;
  weights.check(head, {shape.vocab_size, shape.width});
  const StoredTensor &a = weights.file_of(head).at(head), &b = weights.file_of(embedding).at(embedding);
  if (a.type != b.type || !std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()))
    fail("{}: tie_word_embeddings is true, but \"{}\" is another matrix than \"{}\"",
         weights.file_of(head).path().string(), head, embedding);
}

// The name of the chat template of tokenizer_config.json, or chat_template.jinja; empty for none, and for one
// that is not known.
std::string read_chat_template(const fs::path& folder) {
  const fs::path text = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
  if (is_there(text)) return recognised_chat_template(read_file(text, kLongestIndex));
  if (!is_there(config)) return "";
  const Json file = read_json(config, kLongestIndex);
  const auto found = file.is_object() ? file.find("chat_template") : file.end();
  if (!file.is_object()) fail("{}: expected a JSON object", config.string());
  return found != file.end() && found->is_string() ? recognised_chat_template(found->get<std::string>()) : "";
}

}  // namespace

HuggingFaceConfig read_hugging_face_config(std::string_view text, std::string_view source) {
  const Value file = parse_json_value(text, source);
  ConfigReader reader(file, source);
  const Value* type = reader.find("model_type");
  const std::string kind = type ? inline_text(*type) : "missing";
  // A Mistral is a Llama that may have a sliding window.
  const bool mistral = kind == "\"mistral\"";
  if (!mistral && kind != "\"llama\"")
    fail("{}: model_type is {}; only \"llama\" and \"mistral\" are read", source, kind);
  reader.expect("architectures", mistral ? "[\"MistralForCausalLM\"]" : "[\"LlamaForCausalLM\"]");
  HuggingFaceConfig config;
  LlamaShape& shape = config.shape;
  reader.require("vocab_size", &shape.vocab_size, 1, 1 << 24);
  reader.require("hidden_size", &shape.width, 1, 1 << 20);
  reader.require("intermediate_size", &shape.ffn_width, 1, 1 << 26);
  reader.require("num_hidden_layers", &shape.layers, 1, 4096);
  reader.require("num_attention_heads", &shape.heads, 1, 65536);
  shape.kv_heads = shape.heads;
  reader.read("num_key_value_heads", &shape.kv_heads, 1, 65536);
  reader.require("max_position_embeddings", &shape.context, 1, 1 << 30);
  if (shape.width % shape.heads != 0)
    fail("{}: num_attention_heads = {} does not divide hidden_size = {}", source, shape.heads, shape.width);
  int64_t head_dim = shape.head_width();
  reader.read("head_dim", &head_dim, 1, 1 << 20);
  if (head_dim != shape.head_width())
    fail("{}: head_dim = {} is not supported; only hidden_size / num_attention_heads = {} is", source,
         head_dim, shape.head_width());
  shape.norm_epsilon = 1e-6;  // the library's default
  reader.read("rms_norm_eps", &shape.norm_epsilon, 1e-12, 1);
  read_rope(reader, source, shape);
  if (const Value* tied = reader.find("tie_word_embeddings"))
    set_field(Field("tie_word_embeddings", &shape.tied, ""), *tied, "tie_word_embeddings");
  reader.expect("hidden_act", "\"silu\"");
  reader.expect("attention_bias", "false");
  reader.expect("mlp_bias", "false");
  if (mistral) {
    // The library would take numbers of Mistral 7B for these.
    for (const char* key : {"sliding_window", "num_key_value_heads"})
      if (!file.find(key))
        fail("{}: {} is missing; expected it in the config.json of a mistral", source, key);
    reader.read("sliding_window", &shape.window, 1, 1 << 30);
  } else {
    reader.refuse("sliding_window");
  }
  reader.refuse("quantization_config");
  reader.read("bos_token_id", &config.bos, 0, 1 << 24);
  reader.read("eos_token_id", &config.eos, 0, 1 << 24);
  reader.finish();
  return config;
}

PretrainedModel read_hugging_face(const fs::path& folder, const fs::path& tokenizer, const Backend& backend) {
  const std::string source = (folder / "config.json").string();
  const HuggingFaceConfig config =
      read_hugging_face_config(read_file(folder / "config.json", kLongestConfig), source);
  PretrainedModel pretrained;
  pretrained.shape = config.shape;
  pretrained.source = "a Hugging Face folder";
  pretrained.loaded.tokenizer = load_tokenizer(tokenizer.empty() ? folder : tokenizer);
  const Tokenizer& own = *pretrained.loaded.tokenizer;
  check_text_ends(own, config.bos, config.eos, source);
  pretrained.loaded.chat_template = read_chat_template(folder);
  const ModelConfig model_config = config_of(config.shape, own, source);

  // All is checked before memory is taken: a small file may claim any size.
  Weights weights(folder);
  for (const LlamaTensor& tensor : tensors_of(config.shape))
    weights.check(their_name(tensor.name), tensor.shape);
  if (config.shape.tied) check_tied_head(weights, config.shape);
  weights.check_all_used();
  fill_model(pretrained, model_config, backend, [&](const LlamaTensor& tensor, float* numbers) {
    const std::string name = their_name(tensor.name);
    const SafetensorsFile& file = weights.file_of(name);
    file.read(name, tensor.shape, numbers);
    check_finite(name, {numbers, static_cast<size_t>(tensor.size())}, file.path().string());
  });
  return pretrained;
}

}  // namespace harmonic
