#include "harmonic/bench/bench_contexts.h"

#include <algorithm>
#include <cmath>

#include "harmonic/base/log.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"

namespace harmonic {
namespace {

constexpr double kDeviceTolerance = 2e-3;

// On a card sums depend on how many rows a product has.
bool are_alike(const std::vector<float>& expected, const Tensor& found, Device device) {
  if (device == Device::cpu) return std::equal(expected.begin(), expected.end(), found.as<float>());
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double by = expected[i] - found.as<float>()[i];
    difference += by * by;
    size += static_cast<double>(expected[i]) * expected[i];
  }
  return std::sqrt(difference / size) <= kDeviceTolerance;
}

std::string check_streaming(const Model& model, Inference& inference, const std::vector<int32_t>& text) {
  const auto count = std::min<int64_t>(33, static_cast<int64_t>(text.size()));
  State one(model.state_layout()), many(model.state_layout());
  const Tensor at_once = inference.advance(one, text.data(), count);
  const std::vector<float> expected(at_once.as<float>(), at_once.as<float>() + at_once.cols);
  Tensor logits;
  for (int64_t t = 0; t < count; ++t) logits = inference.advance(many, text.data() + t, 1);
  const Device device = model.backend().device;
  if (!are_alike(expected, logits, device))
    refuse_to_measure(fmt::format("{} tokens one by one have other logits than at once", count));
  return fmt::format("{} tokens one by one have the {} of the same at once", count,
                     device == Device::cpu ? "bits" : "logits");
}

}  // namespace

BenchReport bench_contexts(const ContextBench& options, Model& model, ThreadPool& pool) {
  HARMONIC_ASSERT(!options.contexts.empty());
  BenchReport report;
  report.name = "decode";
  report.columns = {{"context", 0},  {"prefill tokens/s", 0}, {"tokens/s", 1},    {"ms a token", 2},
                    {"spread %", 0}, {"MB of weights", 1},    {"of reading %", 1}};
  report.remarks = {fmt::format("{}: one text; a token to the logits of the next, {} after each context",
                                options.name, options.tokens)};
  const int64_t most = *std::max_element(options.contexts.begin(), options.contexts.end()) + options.tokens;
  if (const int64_t longest = model.config().longest_text(); longest > 0 && most > longest)
    fail("{} remembers {} tokens of a text; {} were asked for: shorten --contexts or --tokens", options.name,
         longest, most);
  Inference inference(model, pool);
  model.pack(inference.context(), options.format);
  const std::vector<int32_t> text = random_tokens(most, model.config().vocab_size, 1);
  report.checks.push_back(check_streaming(model, inference, text));
  report.machine = measure_machine(pool, model.backend());
  const double bytes = weight_bytes_a_token(model);
  for (const int64_t context : options.contexts) {
    progress(fmt::format("bench decode: {}, context {}", options.name, context));
    State read(model.state_layout());
    const double prefill = measure(
                               [&] {
                                 read = State(model.state_layout());
                                 inference.advance(read, text.data(), context);
                               },
                               options.runs, 0.3)
                               .median;
    const MemoryAround memory(pool, model.backend(), report.machine, MemoryAround::Kind::reading);
    const Times times = measure(
        [&] {
          State state = read;
          for (int64_t t = 0; t < options.tokens; ++t) inference.advance(state, text.data() + context + t, 1);
        },
        options.runs, 0.3);
    const double token = times.median / static_cast<double>(options.tokens);
    report.rows.push_back({static_cast<double>(context), static_cast<double>(context) / prefill, 1 / token,
                           token * 1e3, 100 * times.spread(), bytes * 1e-6,
                           100 * bytes / token / memory.bytes_per_second()});
  }
  end_progress();
  return report;
}

}  // namespace harmonic
