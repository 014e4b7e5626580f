#include "harmonic/bench/bench_train.h"

#include <sys/resource.h>

#include "harmonic/base/log.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/train/learner.h"

namespace harmonic {
namespace {

double page_faults() {
  struct rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_minflt + usage.ru_majflt);
}

void add_row(const TrainBench& options, const ModelConfig& config, int64_t length, ThreadPool& pool,
             const Backend& backend, BenchReport& report) {
  Model model(config, backend, true);
  model.parameters().initialise(1);
  TrainConfig train;
  train.lr = 1e-4;
  Optimizer optimizer(model.parameters(), model.backend(), train);
  Backpropagation backpropagation(model, pool, options.memory_mb << 20);
  Arena scratch(model.backend().memory);
  Context context{pool, scratch};
  const int64_t sequences = std::max<int64_t>(1, options.tokens_per_step / length);
  const Batch batch = random_batch(sequences, length, config.vocab_size);
  int64_t step = 0;
  const auto take_step = [&] {
    backpropagation.run(batch, {}, 1 / static_cast<double>(batch.target_count));
    optimizer.gradient_norm(context);
    optimizer.update(context, ++step, 1, 1);
  };
  // Arenas find their size in the first step and lie in one piece from the second on.
  constexpr int64_t kFirstSteps = 2;
  double faults_before = 0;
  take_step();
  const Times times = measure(
      [&] {
        if (step == kFirstSteps) faults_before = page_faults();
        take_step();
      },
      options.runs, 0);
  const double faults = (page_faults() - faults_before) / static_cast<double>(step - kFirstSteps);
  const auto tokens = static_cast<double>(batch.target_count);
  const double operations = training_operations_per_token(model) * tokens;
  report.rows.push_back({config.mixer[0], backend.precision == Precision::bf16 ? "bf16" : "f32",
                         static_cast<double>(config.d_model), static_cast<double>(length),
                         static_cast<double>(sequences),
                         static_cast<double>(model.parameters().count()) * 1e-6, tokens / times.median,
                         times.median * 1e3, 100 * times.spread(), operations / times.median * 1e-9,
                         100 * operations / times.median / report.machine.peak_of(backend), faults});
}

}  // namespace

BenchReport bench_train(const TrainBench& options, ThreadPool& pool,
                        const std::vector<const Backend*>& backends) {
  HARMONIC_ASSERT(backends.size() == options.precisions.size() && !backends.empty());
  if (backends.size() > 1 && backends.front()->device != Device::cpu)
    fail_usage("--precision: on a card one at a time, since its peak is that of one; found {}",
               backends.size());
  // Built before the first is checked: a size that no model has is found at once.
  std::vector<ModelConfig> configs;
  for (const std::string& mixer : options.mixers)
    for (const int64_t width : options.widths)
      configs.push_back(bench_config(mixer, width, options.vocabulary, 0));
  HARMONIC_ASSERT(!configs.empty() && !options.lengths.empty());
  BenchReport report;
  report.name = "train";
  report.columns = {{"mixer", 0},    {"precision", 0},    {"d_model", 0},   {"T", 0},
                    {"texts", 0},    {"M parameters", 2}, {"tokens/s", 0},  {"ms a step", 1},
                    {"spread %", 0}, {"GFLOP/s", 1},      {"of peak %", 1}, {"page faults", 1}};
  report.remarks = {fmt::format(
      "vocabulary {}; a step is gradients, their norm and AdamW's update; operations are the useful ones, "
      "recomputation left out",
      options.vocabulary)};
  for (const ModelConfig& config : configs)
    for (size_t i = 0; i < backends.size(); ++i)
      report.checks.push_back(
          check_training(config, pool, *backends[i], check_tolerance(options.precisions[i])) +
          (backends.size() > 1 ? ", in " + options.precisions[i] : ""));
  report.machine = measure_machine(pool, *backends.front());
  for (ModelConfig& config : configs) {
    for (const int64_t length : options.lengths) {
      progress(fmt::format("bench train: {}, d_model {}, T {}", config.mixer[0], config.d_model, length));
      config.attention.context = length;
      for (const Backend* backend : backends) add_row(options, config, length, pool, *backend, report);
    }
  }
  end_progress();
  return report;
}

}  // namespace harmonic
