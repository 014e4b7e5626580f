#include "harmonic/bench/bench_decode.h"

#include <algorithm>

#include "harmonic/base/log.h"
#include "harmonic/base/random.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/model/running_states.h"
#include "harmonic/model/weight_format.h"

namespace harmonic {
namespace {

// Of a model of more layers the first ones are checked: the reference takes its time.
constexpr int64_t kCheckedLayers = 2;

// Of a run: a step is one token of every stream, to its logits.
Times time_to_logits(const DecodeBench& options, int64_t streams, const Model& model, Inference& inference) {
  Arena memory;
  const StateRows states = make_fresh_state_rows(memory, model.state_layout(), streams);
  const std::vector<int32_t> tokens = random_tokens(streams * options.tokens, model.config().vocab_size, 1);
  std::vector<int64_t> offsets;
  for (int64_t b = 0; b <= streams; ++b) offsets.push_back(b);
  return measure(
      [&] {
        for (int64_t b = 0; b < streams; ++b) states.clear(b);
        for (int64_t t = 0; t < options.tokens; ++t)
          inference.logits(
              inference.hidden(tokens.data() + t * streams, {offsets.data(), streams}, states, states));
      },
      options.runs, 0.3);
}

// On a device: to the next token, chosen at temperature 1.
Times time_to_choices(const DecodeBench& options, int64_t streams, const Model& model, Inference& inference) {
  const StateLayout& layout = model.state_layout();
  RunningStates states(layout, model.backend(), streams);
  const std::vector<int32_t> tokens = random_tokens(streams * options.tokens, model.config().vocab_size, 1);
  const Random random(1, stream_of("choices of a benchmark"));
  std::vector<TokenChoice> choices(tokens.size());
  for (size_t i = 0; i < choices.size(); ++i) choices[i].uniform = random.uniform(i);
  // Streams stand at all places of the slow levels' blocks.
  State state(layout);
  for (int64_t place = 0; place < model.period(); ++place) {
    for (int64_t b = place; b < streams; b += model.period()) states.set(b, state);
    inference.advance(state, tokens.data(), 1);
  }
  int64_t steps = 0;
  const auto run = [&] {
    if (layout.has_caches()) states.clear();
    for (int64_t t = 0; t < options.tokens; ++t, ++steps) {
      const int32_t* chosen = inference.next_tokens(tokens.data() + t * streams, states.before(streams),
                                                    states.after(streams), choices.data() + t * streams);
      if (std::any_of(chosen, chosen + streams, [](int32_t token) { return token < 0; }))
        refuse_to_measure("logits are not finite");
      states.advance();
    }
  };
  // Steps are done once, then recorded, and replayed from then on.
  while (steps < 3 * model.period()) run();
  return measure(run, options.runs, 0.3);
}

void add_rows(const DecodeBench& options, const ModelConfig& config, const std::string& weights,
              ThreadPool& pool, const Backend& backend, BenchReport& report) {
  Model model(config, backend, false);
  model.parameters().initialise(1, &pool);
  Inference inference(model, pool);
  model.pack(inference.context(), weight_format_of(weights));
  double alone = 0;
  for (const int64_t streams : options.streams) {
    progress(fmt::format("bench decode: {}, d_model {}, {}, {} streams", config.mixer[0], config.d_model,
                         weights, streams));
    const MemoryAround memory(pool, backend, report.machine, MemoryAround::Kind::reading);
    const Times times = backend.device == Device::cpu ? time_to_logits(options, streams, model, inference)
                                                      : time_to_choices(options, streams, model, inference);
    const double step = times.median / static_cast<double>(options.tokens);
    const double speed = static_cast<double>(streams) / step;
    if (alone == 0) alone = speed;
    const double bytes = weight_bytes_a_token(model) / step;
    report.rows.push_back({config.mixer[0], static_cast<double>(config.d_model),
                           static_cast<double>(config.n_layers), weights, static_cast<double>(streams), speed,
                           speed / alone, step * 1e6, 100 * times.spread(), matrix_bytes(model) * 1e-6,
                           bytes * 1e-9, 100 * bytes / memory.bytes_per_second()});
  }
}

}  // namespace

BenchReport bench_decode(const DecodeBench& options, ThreadPool& pool, const Backend& backend) {
  const int64_t context = std::max<int64_t>(options.tokens, 64);
  // Built before the first is checked: a size that no model has is found at once.
  std::vector<ModelConfig> configs;
  for (const std::string& mixer : options.mixers)
    for (const int64_t width : options.widths)
      configs.push_back(bench_config(mixer, width, options.vocabulary, context, options.layers));
  HARMONIC_ASSERT(!configs.empty() && !options.weights.empty() && !options.streams.empty());
  BenchReport report;
  report.name = "decode";
  report.columns = {{"mixer", 0},    {"d_model", 0},       {"layers", 0},      {"weights", 0},
                    {"streams", 0},  {"tokens/s", 0},      {"x the first", 2}, {"us a step", 1},
                    {"spread %", 0}, {"MB of weights", 1}, {"GB/s", 1},        {"of reading %", 1}};
  report.remarks = {fmt::format(
      "vocabulary {}; a step is one token of every stream, to {}; GB/s are those of the weights that it "
      "reads, a "
      "slow level's by its stride; the speed of reading is measured before and after each row, above 100 % "
      "of it: "
      "from the cache",
      options.vocabulary, backend.device == Device::cpu ? "its logits" : "the next one, chosen by them")};
  for (const ModelConfig& config : configs) {
    ModelConfig checked = config;
    if (options.layers > 0) checked.n_layers = std::min(options.layers, kCheckedLayers);
    for (const std::string& weights : options.weights)
      report.checks.push_back(check_decoding(checked, pool, weight_format_of(weights), backend,
                                             check_tolerance(options.precision)));
  }
  report.machine = measure_machine(pool, backend);
  for (const ModelConfig& config : configs)
    for (const std::string& weights : options.weights)
      add_rows(options, config, weights, pool, backend, report);
  end_progress();
  return report;
}

}  // namespace harmonic
