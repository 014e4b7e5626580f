#include "harmonic/convert/gguf.h"

#include <fmt/ranges.h>

#include <map>
#include <set>

#include "harmonic/base/error.h"
#include "harmonic/convert/gguf_tokenizer.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/tokenizer/chat_template.h"

namespace harmonic {
namespace {

constexpr const char* kArchitecture = "llama";

void read_rope(GgufValues& values, LlamaShape& shape) {
  shape.rope_base = values.number("llama.rope.freq_base", 10000.0);
  RopeScaling& rope = shape.rope;
  const std::string key = "llama.rope.scaling.type", factor_key = "llama.rope.scaling.factor";
  const double factor = values.number(factor_key, 1.0);
  // llama.cpp takes a factor without a kind as linear, and 0 as none.
  rope.kind = values.text(key, factor == 0 || factor == 1 ? "none" : "linear");
  if (rope.kind != "none" && rope.kind != "linear" && rope.kind != "yarn")
    values.wrong(key, rope.kind, "none, linear or yarn: other scalings are not supported");
  const int64_t context = values.integer("llama.rope.scaling.original_context_length", 0, 1 << 30, 0);
  values.ignore("llama.rope.scaling.finetuned");
  if (rope.kind == "none") return;
  if (!(factor >= 1 && factor <= 1e6)) values.wrong(factor_key, fmt::format("{}", factor), "1 to 1000000");
  rope.factor = factor;
  if (rope.kind == "yarn") rope.context = context;
}

LlamaShape read_shape(GgufValues& values) {
  LlamaShape shape;
  shape.layers = values.integer("llama.block_count", 1, 4096);
  shape.context = values.integer("llama.context_length", 1, 1 << 30);
  shape.width = values.integer("llama.embedding_length", 1, 1 << 20);
  shape.ffn_width = values.integer("llama.feed_forward_length", 1, 1 << 26);
  shape.heads = values.integer("llama.attention.head_count", 1, 65536);
  shape.kv_heads = values.integer("llama.attention.head_count_kv", 1, 65536, shape.heads);
  shape.norm_epsilon = values.number("llama.attention.layer_norm_rms_epsilon");
  shape.vocab_size =
      static_cast<int64_t>(values.list<std::string_view>("tokenizer.ggml.tokens", "texts").size());
  if (shape.width % shape.heads != 0)
    fail("{}: {} heads do not divide a width of {}", values.name(), shape.heads, shape.width);
  read_rope(values, shape);
  const auto expect = [&](std::string_view key, int64_t expected) {
    const int64_t found = values.integer(key, 0, int64_t{1} << 40, expected);
    if (found != expected)
      values.wrong(key, fmt::to_string(found), fmt::format("{}: others are not supported", expected));
  };
  expect("llama.vocab_size", shape.vocab_size);
  expect("llama.rope.dimension_count", shape.head_width());
  expect("llama.attention.key_length", shape.head_width());
  expect("llama.attention.value_length", shape.head_width());
  expect("llama.expert_count", 0);
  expect("llama.expert_used_count", 0);
  expect("split.count", 0);
  values.refuse_others({"llama.", "split."});
  return shape;
}

std::string their_name(const std::string& ours) {
  if (ours == "embed.weight") return "token_embd.weight";
  if (ours == "head.weight") return "output.weight";
  if (ours == "final_norm.weight") return "output_norm.weight";
  // layers.{i}.PART.weight
  const size_t dot = ours.find('.', 7), end = ours.rfind('.');
  static const std::map<std::string, std::string, std::less<>> parts = {
      {"mixer_norm", "attn_norm"}, {"ffn_norm", "ffn_norm"},   {"mixer.q_proj", "attn_q"},
      {"mixer.k_proj", "attn_k"},  {"mixer.v_proj", "attn_v"}, {"mixer.o_proj", "attn_output"},
      {"ffn.gate", "ffn_gate"},    {"ffn.up", "ffn_up"},       {"ffn.down", "ffn_down"}};
  return fmt::format("blk.{}.{}.weight", ours.substr(7, dot - 7),
                     parts.at(ours.substr(dot + 1, end - dot - 1)));
}

const GgufTensor& checked_tensor(const GgufFile& file, const LlamaTensor& wanted) {
  const std::string name = their_name(wanted.name);
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end())
    fail("{}: expected a tensor \"{}\" of shape [{}], found none", file.name(), name,
         fmt::join(wanted.shape, ", "));
  if (found->second.shape != wanted.shape)
    fail("{}: tensor \"{}\": expected shape [{}], found [{}]", file.name(), name,
         fmt::join(wanted.shape, ", "), fmt::join(found->second.shape, ", "));
  return found->second;
}

// For people: how the numbers were stored.
std::string types_of(const GgufFile& file) {
  std::map<std::string_view, int64_t> counts;
  for (const auto& [name, tensor] : file.tensors()) ++counts[tensor.type->name];
  std::vector<std::string> texts;
  for (const auto& [type, count] : counts) texts.push_back(fmt::format("{} {}", count, type));
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

PretrainedModel read_gguf(const std::filesystem::path& path, const GgufOptions& options,
                          const Backend& backend) {
  const GgufFile file(path);
  GgufValues values(file);
  if (const std::string_view found = values.text("general.architecture"); found != kArchitecture)
    values.wrong("general.architecture", found, "llama: other architectures are not supported");
  PretrainedModel pretrained;
  pretrained.shape = read_shape(values);
  LlamaShape& shape = pretrained.shape;
  shape.tied = !file.tensors().contains("output.weight");
  pretrained.source = fmt::format("a GGUF file, its tensors {}", types_of(file));
  pretrained.loaded.tokenizer =
      options.tokenizer.empty() ? read_gguf_tokenizer(values) : load_tokenizer(options.tokenizer);
  pretrained.loaded.chat_template = recognised_chat_template(values.text("tokenizer.chat_template", ""));
  ModelConfig config = config_of(shape, *pretrained.loaded.tokenizer, file.name());
  if (options.change) options.change(config);

  // All is checked before memory is taken: a small file may claim any size.
  std::set<std::string, std::less<>> used;
  for (const LlamaTensor& tensor : tensors_of(shape)) {
    checked_tensor(file, tensor);
    used.insert(their_name(tensor.name));
  }
  for (const auto& [name, tensor] : file.tensors())
    if (!used.contains(name))
      fail(
          "{}: a tensor \"{}\" that is not known and may change what the model computes; it is not supported",
          file.name(), name);
  // llama.cpp's converter puts rotary pairs side by side.
  const auto read = [&](const LlamaTensor& tensor, float* numbers) {
    const GgufTensor& stored = checked_tensor(file, tensor);
    dequantise(*stored.type, stored.bytes, stored.size, numbers);
    check_finite(tensor.name, {numbers, static_cast<size_t>(tensor.size())}, file.name());
    if (tensor.is_rotated())
      take_pairs_apart(tensor, shape.head_width(), tensor.columns() * int64_t{sizeof(float)}, numbers);
    file.release(stored);
  };
  ThreadPool pool(1);
  const auto keep = [&](const LlamaTensor& tensor, Parameters& parameters, Parameter& parameter) {
    const GgufTensor& stored = checked_tensor(file, tensor);
    if (!options.keep_blocks || !stored.type->kept || tensor.shape.size() != 2) return false;
    if (!blocks_are_finite(*stored.type, stored.bytes)) fail_not_finite(tensor.name, file.name());
    const DType dtype = *stored.type->kept;
    const int64_t rows = tensor.rows(), columns = tensor.columns();
    std::vector<uint8_t> turned;
    const uint8_t* blocks = stored.bytes.data();
    if (tensor.is_rotated()) {
      turned.assign(stored.bytes.begin(), stored.bytes.end());
      take_pairs_apart(tensor, shape.head_width(), static_cast<int64_t>(turned.size()) / rows, turned.data());
      blocks = turned.data();
    }
    parameter.packed = parameters.memory().tensor(1, packed_size(columns, rows, dtype), dtype);
    pack_blocks(pool, columns, rows, blocks, dtype, parameter.packed.data);
    parameters.drop_value(parameter);
    file.release(stored);
    return true;
  };
  fill_model(pretrained, config, backend, read, keep);
  return pretrained;
}

}  // namespace harmonic
