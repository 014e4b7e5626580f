#include "harmonic/bench/bench_length.h"

#include <algorithm>
#include <limits>

#include "harmonic/base/log.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/train/backpropagation.h"

namespace harmonic {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kNear = 1000;                // where the near blocks of a stream begin
constexpr int64_t kBlock = 4096, kBlocks = 9;  // tokens of a block, blocks of each kind
constexpr int64_t kTokensBetweenProgress = 100'000;

class LengthRun {
 public:
  LengthRun(const LengthBench& options, const ModelConfig& config, int64_t longest, ThreadPool& pool,
            BenchReport& report)
      : options_(options),
        pool_(pool),
        report_(report),
        model_(config, cpu_backend(), true),
        inference_(model_, pool),
        longest_(longest),
        text_(random_tokens(longest + 1, config.vocab_size, 1)) {
    model_.parameters().initialise(1);
  }

  void evaluation() {
    against_length("evaluation", [&](int64_t length) {
      bits_.clear();
      for (int64_t begin = 0; begin + length <= longest_; begin += length) {
        State state(model_.state_layout());
        inference_.score(state, text_.data() + begin, length, bits_);
      }
    });
  }
  void prefill() {
    against_length("prefill", [&](int64_t length) {
      for (int64_t begin = 0; begin + length <= longest_; begin += length) {
        State state(model_.state_layout());
        inference_.advance(state, text_.data() + begin, length);
      }
    });
  }
  void training() {
    Backpropagation backpropagation(model_, pool_, options_.memory_mb << 20);
    Batch batch;
    int64_t made = 0;
    against_length("training", [&](int64_t length) {
      if (made != length) batch = random_batch(longest_ / length, length, model_.config().vocab_size);
      made = length;
      backpropagation.run(batch, {}, 1 / static_cast<double>(batch.target_count));
    });
  }

  // Blocks take turns, so that whatever else the machine does meets both alike.
  void stream() {
    State near(model_.state_layout()), far(model_.state_layout());
    read(near, kNear);
    read(far, options_.stream);
    const int64_t block = std::min(kBlock, longest_);
    std::vector<double> near_seconds, far_seconds, ratios;
    for (int64_t i = 0; i <= kBlocks; ++i) {
      const auto seconds = [&](const State& from) {
        State state = from;
        return seconds_of([&] { inference_.advance(state, text_.data(), block); });
      };
      const double n = seconds(near), f = seconds(far);
      if (i == 0) continue;
      near_seconds.push_back(n);
      far_seconds.push_back(f);
      ratios.push_back(n / f);
    }
    const Times n = summary_of(near_seconds), f = summary_of(far_seconds);
    add("stream, near", static_cast<double>(kNear), n, block, 1);
    add("stream, far", static_cast<double>(options_.stream), f, block, 1 / summary_of(ratios).median);
    report_.remarks.push_back(fmt::format(
        "tokens/s at token {} over those at token {}: {:.4f}, the median of {} pairs of blocks of {}",
        options_.stream, kNear, summary_of(ratios).median, kBlocks, block));
  }

 private:
  // The text again and again, as many tokens as that.
  void read(State& state, int64_t tokens) {
    for (int64_t done = 0; done < tokens;) {
      const int64_t count = std::min({tokens - done, longest_, kTokensBetweenProgress});
      inference_.advance(state, text_.data(), count);
      done += count;
      progress(fmt::format("bench length: stream, {} of {} tokens", done, tokens));
    }
  }
  template <typename Call>
  void against_length(const std::string& name, const Call& call) {
    double first = 0;
    for (const int64_t length : options_.lengths) {
      progress(fmt::format("bench length: {}, T {}", name, length));
      const Times times = measure([&] { call(length); }, options_.runs, 0);
      const int64_t tokens = longest_ / length * length;
      const double each = times.median / static_cast<double>(tokens);
      if (first == 0) first = each;
      add(name, static_cast<double>(length), times, tokens, each / first);
    }
  }
  void add(const std::string& name, double at, const Times& times, int64_t tokens, double ratio) {
    const double each = times.median / static_cast<double>(tokens);
    report_.rows.push_back({name, at, 1 / each, each * 1e6, 100 * times.spread(), ratio});
  }

  const LengthBench& options_;
  ThreadPool& pool_;
  BenchReport& report_;
  Model model_;
  Inference inference_;
  int64_t longest_;
  std::vector<int32_t> text_;
  std::vector<double> bits_;
};

}  // namespace

BenchReport bench_length(const LengthBench& options, ThreadPool& pool) {
  HARMONIC_ASSERT(!options.lengths.empty());
  const int64_t longest = *std::max_element(options.lengths.begin(), options.lengths.end());
  const ModelConfig config = bench_config(options.mixer, options.d_model, options.vocabulary, longest);
  if (config.longest_text() > 0 && options.stream > 0)
    fail_usage("--stream: {} remembers {} tokens of a text and no stream; give --stream 0", options.mixer,
               config.longest_text());
  BenchReport report;
  report.name = "length";
  report.columns = {{"what", 0},       {"T", 0},        {"tokens/s", 0},
                    {"us a token", 3}, {"spread %", 0}, {"x the first", 3}};
  report.remarks = {
      fmt::format("{}, d_model {}, vocabulary {}; a training step is one of exact gradients in {} MB",
                  options.mixer, options.d_model, options.vocabulary, options.memory_mb)};
  report.checks = {check_length(config, pool)};
  report.machine = measure_machine(pool);
  LengthRun run(options, config, longest, pool, report);
  run.evaluation();
  run.prefill();
  run.training();
  if (options.stream > 0) run.stream();
  end_progress();
  return report;
}

}  // namespace harmonic
