#include "harmonic/convert/llama.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/tokenizer/chat_template.h"

namespace harmonic {
namespace {

// The multiple of the width that gives a feed-forward part of this width: their quotient, or a little less
// where its product with the width would be rounded up.
double ffn_multiple_of(const LlamaShape& shape) {
  const auto wanted = static_cast<double>(shape.ffn_width), width = static_cast<double>(shape.width);
  double multiple = wanted / width;
  while (std::ceil(multiple * width) > wanted) multiple = std::nextafter(multiple, 0.0);
  return multiple;
}

}  // namespace

void check_text_ends(const Tokenizer& own, int64_t bos, int64_t eos, const std::string& source) {
  const auto is_one_of = [](int64_t token, std::initializer_list<int64_t> tokens) {
    return token < 0 || std::find(tokens.begin(), tokens.end(), token) != tokens.end();
  };
  if (!is_one_of(bos, {own.bos(), own.eot(), own.special(kChatMlBegin)}) ||
      !is_one_of(eos, {own.eot(), own.special(kChatMlEnd)}))
    fail(
        "{}: the tokens {} and {} begin and end a text (-1: not said); its tokenizer has {} and {}: they do "
        "not belong together",
        source, bos, eos, own.bos(), own.eot());
}

void take_settings(ModelConfig& config, const LlamaShape& shape) {
  config.norm_epsilon = shape.norm_epsilon;
  config.attention.rope_base = shape.rope_base;
  config.attention.rope = shape.rope;
  config.attention.context = shape.context;
  config.attention.window = shape.window;
}

ModelConfig config_of(const LlamaShape& shape, const Tokenizer& tokenizer, const std::string& source) {
  ModelConfig config;
  take_vocabulary(config, tokenizer);
  if (shape.vocab_size != config.vocab_size)
    fail("{}: a vocabulary of {} tokens; its tokenizer has {}: they do not belong together", source,
         shape.vocab_size, config.vocab_size);
  config.mixer = {"attention"};
  config.d_model = shape.width;
  config.n_layers = shape.layers;
  if (shape.width < 1 || shape.ffn_width < 1)
    fail("{}: a width of {} and of {} in the feed-forward part; expected at least 1", source, shape.width,
         shape.ffn_width);
  config.ffn_multiple = ffn_multiple_of(shape);
  config.tie_embeddings = shape.tied;
  config.attention.n_heads = shape.heads;
  config.attention.n_kv_heads = shape.kv_heads;
  take_settings(config, shape);
  try {
    config.validate();
  } catch (const Error& error) {
    fail("{}: {}", source, error.what());
  }
  if (config.d_ffn() != round_up(shape.ffn_width, 8))
    fail("{}: a feed-forward part of width {} cannot be had with a width of {}", source, shape.ffn_width,
         shape.width);
  return config;
}

std::vector<LlamaTensor> tensors_of(const LlamaShape& s) {
  std::vector<LlamaTensor> tensors = {{"embed.weight", {s.vocab_size, s.width}}};
  for (int64_t i = 0; i < s.layers; ++i) {
    const auto add = [&](const char* name, std::vector<int64_t> shape) {
      tensors.push_back({fmt::format("layers.{}.{}.weight", i, name), std::move(shape)});
    };
    add("mixer_norm", {s.width});
    add("mixer.q_proj", {s.width, s.width});
    add("mixer.k_proj", {s.kv_width(), s.width});
    add("mixer.v_proj", {s.kv_width(), s.width});
    add("mixer.o_proj", {s.width, s.width});
    add("ffn_norm", {s.width});
    add("ffn.gate", {s.ffn_width, s.width});
    add("ffn.up", {s.ffn_width, s.width});
    add("ffn.down", {s.width, s.ffn_width});
  }
  tensors.push_back({"final_norm.weight", {s.width}});
  if (!s.tied) tensors.push_back({"head.weight", {s.vocab_size, s.width}});
  return tensors;
}

void fail_not_finite(const std::string& tensor, const std::string& source) {
  fail("{}: a number of {} is not finite: the file is damaged", source, tensor);
}

void check_finite(const std::string& tensor, std::span<const float> numbers, const std::string& source) {
  for (const float number : numbers)
    if (!std::isfinite(number)) fail_not_finite(tensor, source);
}

void check_finite(const Parameters& parameters, const std::string& source) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& value = parameters[i].value;
    HARMONIC_ASSERT(value.contiguous());
    check_finite(parameters[i].name, {value.as<float>(), static_cast<size_t>(value.size())}, source);
  }
}

void take_pairs_apart(const LlamaTensor& tensor, int64_t head_width, int64_t row_bytes, void* rows) {
  std::vector<char> head(static_cast<size_t>(head_width * row_bytes));
  for (int64_t first = 0; first < tensor.rows(); first += head_width) {
    char* here = static_cast<char*>(rows) + first * row_bytes;
    std::memcpy(head.data(), here, head.size());
    for (int64_t i = 0; i < head_width; ++i) {
      const int64_t to = i / 2 + (i % 2) * (head_width / 2);
      std::memcpy(here + to * row_bytes, head.data() + i * row_bytes, static_cast<size_t>(row_bytes));
    }
  }
}

Model& fill_model(PretrainedModel& pretrained, const ModelConfig& config, const Backend& backend,
                  const std::function<void(const LlamaTensor&, float*)>& read,
                  const std::function<bool(const LlamaTensor&, Parameters&, Parameter&)>& keep) {
  HARMONIC_ASSERT(backend.dtype == DType::f32);
  pretrained.loaded.model = std::make_unique<Model>(config, backend, false);
  Parameters& parameters = pretrained.loaded.model->parameters();
  const std::vector<LlamaTensor> tensors = tensors_of(pretrained.shape);
  HARMONIC_ASSERT(tensors.size() == parameters.size());
  std::vector<float> numbers;
  pretrained.parameters = 0;
  for (const LlamaTensor& tensor : tensors) {
    stop_if_interrupted();
    Parameter* parameter = parameters.find(tensor.name);
    HARMONIC_ASSERT(parameter);
    const Tensor& value = parameter->value;
    HARMONIC_ASSERT(value.rows >= tensor.rows() && value.cols >= tensor.columns() && value.contiguous());
    pretrained.parameters += tensor.size();
    if (value.size() == tensor.size()) {
      if (keep && keep(tensor, parameters, *parameter)) continue;
      read(tensor, value.as<float>());
      continue;
    }
    numbers.resize(static_cast<size_t>(tensor.size()));
    read(tensor, numbers.data());
    std::memset(value.data, 0, static_cast<size_t>(value.size() * size_of(value.dtype)));
    for (int64_t row = 0; row < tensor.rows(); ++row)
      std::memcpy(value.row<float>(row), numbers.data() + row * tensor.columns(),
                  static_cast<size_t>(tensor.columns()) * sizeof(float));
  }
  return *pretrained.loaded.model;
}

}  // namespace harmonic
