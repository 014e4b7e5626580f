#include "harmonic/bench/bench_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "harmonic/base/random.h"
#include "harmonic/model/presets.h"
#include "harmonic/train/backpropagation.h"

namespace harmonic {
namespace {

constexpr int64_t kCheckedTokens = 33;  // every level of the paper's strides closes a block
constexpr int64_t kMemory = 256 << 20;
constexpr uint64_t kSeed = 1;

// So that attention remembers a text of a check, however short those are that it is measured on.
ModelConfig for_text_of(int64_t tokens, ModelConfig config) {
  config.attention.context = std::max(config.attention.context, tokens);
  return config;
}

// ||found - expected|| / ||expected||, of f32 or f64 tensors.
double relative_error(const Tensor& found, const Tensor& expected) {
  double difference = 0, size = 0;
  for (int64_t r = 0; r < expected.rows; ++r) {
    for (int64_t c = 0; c < expected.cols; ++c) {
      const double e = number_at(expected, r, c), d = number_at(found, r, c) - e;
      difference += d * d;
      size += e * e;
    }
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

// Also where the error is not a number.
void expect_small(double error, const std::string& what, double tolerance = kCheckTolerance) {
  if (!(error <= tolerance))
    refuse_to_measure(
        fmt::format("{}: relative error {:.2e}, expected {:.0e} at most", what, error, tolerance));
}

void expect_same_bits(const void* a, const void* b, int64_t bytes, const std::string& what) {
  if (std::memcmp(a, b, static_cast<size_t>(bytes)) != 0) refuse_to_measure(what + ": other bits");
}

// Start vectors, predictors and level weights start at zero or small: moved, so that they count.
void initialise(Model& model, ThreadPool& pool) {
  model.parameters().initialise(kSeed, &pool);
  for (size_t i = 0; i < model.parameters().size(); ++i) {
    const Tensor& value = model.parameters()[i].value;
    const Random random(kSeed, stream_of(model.parameters()[i].name + " moved"));
    pool.parallel_ranges(value.size(), 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const float by = static_cast<float>(0.1 * random.uniform(static_cast<uint64_t>(k)) - 0.05);
        if (value.dtype == DType::f64) {
          value.as<double>()[k] = static_cast<float>(value.as<double>()[k]) + by;
        } else {
          value.as<float>()[k] += by;
        }
      }
    });
  }
}

LossSum pass(Model& model, ThreadPool& pool, const Batch& batch, int64_t chunk) {
  Backpropagation backpropagation(model, pool, kMemory, chunk);
  return backpropagation.run(batch, {}, 1 / static_cast<double>(batch.target_count));
}

void compare_gradients(const Model& found, const Model& expected, const std::string& what,
                       double tolerance = kCheckTolerance) {
  for (size_t i = 0; i < expected.parameters().size(); ++i)
    expect_small(relative_error(found.parameters()[i].grad, expected.parameters()[i].grad),
                 fmt::format("{}, gradient of {}", what, expected.parameters()[i].name), tolerance);
}

void compare_losses(const LossSum& found, const LossSum& expected, const std::string& what,
                    double tolerance = kCheckTolerance) {
  expect_small(std::abs(found.nats - expected.nats) / expected.nats, what + ", loss", tolerance);
}

}  // namespace

void refuse_to_measure(const std::string& what) {
  fail(
      "the check before measuring failed: {}; this build does not compute what it should, so that its speed "
      "means nothing",
      what);
}

ModelConfig bench_config(const std::string& mixer, int64_t d_model, int64_t vocabulary, int64_t longest,
                         int64_t layers) {
  const std::string preset = mixer == "harmonic"    ? "paper"
                             : mixer == "attention" ? "paper-transformer"
                             : mixer == "mamba"     ? "paper-mamba"
                                                    : "";
  if (preset.empty())
    fail_usage("--mixers: \"{}\" is not a mixer; expected harmonic, attention or mamba{}", mixer,
               did_you_mean(mixer, {"harmonic", "attention", "mamba"}));
  ModelConfig config = preset_named(preset).config;
  if (mixer == "attention" && d_model % (2 * config.attention.n_heads) != 0)
    fail_usage("d_model {}: expected a multiple of {}, for {} heads of even width of the mixer attention",
               d_model, 2 * config.attention.n_heads, config.attention.n_heads);
  if (d_model < 2)
    fail_usage(
        "d_model {}: expected 2 at least; a norm over one channel leaves its sign alone, whose gradient is "
        "rounding, so that no check can tell right from wrong",
        d_model);
  constexpr int64_t kLongest = 1 << 30;
  if (longest > kLongest) fail_usage("{} tokens: expected {} at most", longest, kLongest);
  config.d_model = d_model;
  if (layers > 0) config.n_layers = layers;
  config.harmonic.d_state = 0;
  config.vocab_size = vocabulary;
  config.eot_token_id = 0;
  config.attention.context = std::max<int64_t>(longest, 1);
  config.validate();
  return config;
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary, uint64_t seed) {
  const Random random(seed, stream_of("tokens of a benchmark"));
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocabulary)));
  return tokens;
}

Batch random_batch(int64_t sequences, int64_t length, int64_t vocabulary) {
  Batch batch;
  batch.tokens = random_tokens(sequences * length + 1, vocabulary, kSeed);
  batch.targets.assign(batch.tokens.begin() + 1, batch.tokens.end());
  batch.tokens.pop_back();
  batch.sequences = sequences;
  batch.target_count = sequences * length;
  for (int64_t s = 0; s <= sequences; ++s) batch.offsets.push_back(s * length);
  for (int64_t s = 0; s < sequences; ++s) batch.segments.push_back({s, 0, false});
  return batch;
}

double matrix_bytes(const Model& model) {
  double bytes = 0;
  for (size_t i = 0; i < model.parameters().size(); ++i) {
    const Parameter& parameter = model.parameters()[i];
    if (model.parameters().role(i) != Role::matrix && &parameter != &model.head()) continue;
    const Tensor& kept = parameter.packed ? parameter.packed : parameter.value;
    bytes += static_cast<double>(kept.size() * size_of(kept.dtype));
  }
  return bytes;
}

double weight_bytes_a_token(const Model& model) {
  const double each = matrix_bytes(model) /
                      static_cast<double>(model.parameters().count(Role::matrix) + model.head().value.size());
  double numbers = static_cast<double>(model.head().value.size());
  for (const Work::Part& part : model.work().parts)
    if (!part.name.ends_with("scan") && !part.name.ends_with("scores"))
      numbers += part.multiply_adds / static_cast<double>(part.stride);
  return each * numbers;
}

double check_tolerance(std::string_view precision) { return precision == "bf16" ? 5e-2 : kCheckTolerance; }

std::string check_training(const ModelConfig& measured, ThreadPool& pool, const Backend& backend,
                           double tolerance) {
  const ModelConfig config = for_text_of(kCheckedTokens, measured);
  Model found(config, backend, true), expected(config, reference_backend(), true);
  initialise(found, pool);
  initialise(expected, pool);
  const Batch batch = random_batch(1, kCheckedTokens, config.vocab_size);
  const std::string what = fmt::format("{}, d_model {}", config.mixer[0], config.d_model);
  compare_losses(pass(found, pool, batch, 0), pass(expected, pool, batch, 0), what, tolerance);
  compare_gradients(found, expected, what, tolerance);
  return fmt::format("{}: loss and every gradient of {} tokens equal the reference's within {:.0e}", what,
                     kCheckedTokens, tolerance);
}

std::string check_decoding(const ModelConfig& measured, ThreadPool& pool, DType format,
                           const Backend& backend, double tolerance) {
  // So many rows that products go the way of many; the definition, which is slow, has some of them.
  constexpr int64_t kStreams = 17, kReferenced = 3, kTokens = 5;
  const ModelConfig config = for_text_of(kTokens + 1, measured);
  Model found(config, backend, false), expected(config, reference_backend(), false);
  initialise(found, pool);
  initialise(expected, pool);
  Inference inference(found, pool), reference(expected, pool);
  found.pack(inference.context(), format);
  expected.pack(reference.context(), format);
  const std::string what =
      fmt::format("{}, d_model {}, {}", config.mixer[0], config.d_model, name_of(format));
  const std::vector<int32_t> tokens = random_tokens(kStreams * kTokens, config.vocab_size, kSeed);
  Arena memory;
  const StateRows together = make_state_rows(memory, found.state_layout(), kStreams);
  int64_t offsets[kStreams + 1];
  std::iota(offsets, offsets + kStreams + 1, 0);
  for (int64_t t = 0; t < kTokens; ++t)
    inference.hidden(tokens.data() + t * kStreams, {offsets, kStreams}, together, together);
  const Tensor logits =
      inference.logits(inference.hidden(tokens.data(), {offsets, kStreams}, together, together));
  const ArenaScope scope(memory);
  const Tensor kept = memory.tensor(logits.rows, logits.cols, DType::f32);
  std::memcpy(kept.data, logits.data, static_cast<size_t>(logits.size()) * sizeof(float));
  for (int64_t b = 0; b < kStreams; ++b) {
    std::vector<int32_t> text;
    for (int64_t t = 0; t < kTokens; ++t) text.push_back(tokens[static_cast<size_t>(t * kStreams + b)]);
    text.push_back(tokens[static_cast<size_t>(b)]);
    State alone(found.state_layout()), slow(expected.state_layout());
    const auto count = static_cast<int64_t>(text.size());
    const Tensor row = inference.advance(alone, text.data(), count);
    if (backend.device == Device::cpu) {
      expect_same_bits(row.data, kept.row<float>(b), row.cols * int64_t{sizeof(float)}, what + ", alone");
    } else {
      expect_small(relative_error(row, kept.rows_of(b, 1)), what + ", alone", tolerance);
    }
    if (b < kReferenced)
      expect_small(relative_error(row, reference.advance(slow, text.data(), count)), what + ", logits",
                   tolerance);
  }
  return fmt::format("{}: logits equal the reference's within {:.0e}, and {} decoded alone and in a batch",
                     what, tolerance, backend.device == Device::cpu ? "to the bit" : "each other");
}

std::string check_length(const ModelConfig& measured, ThreadPool& pool, const Backend& backend) {
  constexpr int64_t kTokens = 300, kChunk = 77;
  const ModelConfig config = for_text_of(kTokens, measured);
  const std::string what = fmt::format("{}, d_model {}", config.mixer[0], config.d_model);
  const std::vector<int32_t> text = random_tokens(kTokens + 1, config.vocab_size, kSeed);
  Model whole(config, backend, true), pieces(config, backend, true);
  initialise(whole, pool);
  initialise(pieces, pool);
  Inference inference(whole, pool);
  State one(whole.state_layout()), many(whole.state_layout());
  std::vector<double> bits_of_one, bits_of_many;
  inference.score(one, text.data(), kTokens, bits_of_one);
  for (int64_t begin = 0; begin < kTokens; begin += kChunk)
    inference.score(many, text.data() + begin, std::min(kChunk, kTokens - begin), bits_of_many);
  expect_same_bits(bits_of_one.data(), bits_of_many.data(), kTokens * int64_t{sizeof(double)},
                   what + ", losses in pieces");
  if (!whole.state_layout().has_caches())
    expect_same_bits(one.data(), many.data(), one.bytes(), what + ", state after pieces");
  const Batch batch = random_batch(1, kTokens, config.vocab_size);
  compare_losses(pass(pieces, pool, batch, kChunk), pass(whole, pool, batch, 0), what);
  compare_gradients(pieces, whole, what + ", in chunks");
  return fmt::format(
      "{}: a text in pieces gives the bits of the whole, gradients in chunks those of the whole within "
      "{:.0e}",
      what, kCheckTolerance);
}

}  // namespace harmonic
