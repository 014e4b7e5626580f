// What the formats of Llama-family models have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/eval/model_folder.h"

namespace harmonic {

// The sizes of a model, whatever its file calls them.
struct LlamaShape {
  int64_t vocab_size = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, ffn_width = 0, context = 0;
  double rope_base = 10000, norm_epsilon = 1e-5;
  RopeScaling rope;
  int64_t window = 0;  // tokens that attention looks back; 0 is all
  bool tied = false;   // the head is the embedding

  int64_t head_width() const { return width / heads; }
  int64_t kv_width() const { return head_width() * kv_heads; }
};

struct PretrainedModel {
  std::string source;  // what was read, for people
  LlamaShape shape;
  int64_t parameters = 0;  // numbers taken over
  LoadedModel loaded;
};

// Throws Error, naming `source`, unless the tokens that it says begin and end a text (-1: not said) are the
// tokenizer's, or begin and end a turn of a chat, as models that are trained to chat say.
void check_text_ends(const Tokenizer& tokenizer, int64_t bos, int64_t eos, const std::string& source);

// What of `shape` are settings of the model that no tensor shows: norms and attention.
void take_settings(ModelConfig& config, const LlamaShape& shape);

// The configuration of such a model with attention in every layer. Throws Error, naming `source`, for sizes
// that it cannot have or that the tokenizer does not have.
ModelConfig config_of(const LlamaShape& shape, const Tokenizer& tokenizer, const std::string& source);

// A tensor of the model: its name, and its shape in the file, which has fewer rows or columns than the
// parameter where the width of the feed-forward part is no multiple of 8: the rest is zeros, which change no
// result.
struct LlamaTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t rows() const { return shape.size() == 1 ? 1 : shape[0]; }
  int64_t columns() const { return shape.back(); }
  int64_t size() const { return rows() * columns(); }
  // Whether its rows are turned by rotary positions: the queries' and the keys' matrix.
  bool is_rotated() const { return name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight"); }
};
// All tensors in the model's order. The sizes must be those of a valid configuration.
std::vector<LlamaTensor> tensors_of(const LlamaShape& shape);

[[noreturn]] void fail_not_finite(const std::string& tensor, const std::string& source);
// Throws Error, naming the tensor and `source`, for a number that is not finite.
void check_finite(const std::string& tensor, std::span<const float> numbers, const std::string& source);
void check_finite(const Parameters& parameters, const std::string& source);
// Rotary pairs that are neighbours in the rows of each head, half a head apart afterwards, as here. The rows
// have `row_bytes` bytes each.
void take_pairs_apart(const LlamaTensor& tensor, int64_t head_width, int64_t row_bytes, void* rows);

// Makes the model and fills each of its tensors by read(tensor, numbers), which writes size() numbers; but
// for those that keep(tensor, parameters, parameter), where given, has filled with a packed form.
Model& fill_model(PretrainedModel& pretrained, const ModelConfig& config, const Backend& backend,
                  const std::function<void(const LlamaTensor&, float*)>& read,
                  const std::function<bool(const LlamaTensor&, Parameters&, Parameter&)>& keep = {});

}  // namespace harmonic
