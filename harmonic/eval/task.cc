#include "harmonic/eval/task.h"

#include <algorithm>
#include <cmath>

#include "harmonic/base/log.h"
#include "harmonic/eval/batch_forward.h"
#include "harmonic/eval/exact_sum.h"

namespace harmonic {
namespace {

// Logits exist for so many rows together as have about so many numbers.
constexpr int64_t kLogitsAtOnce = 1 << 21;

// Appends the example as a sequence: all its tokens but the last, with the target's as targets.
void append(Batch& batch, const TaskExample& example) {
  HARMONIC_ASSERT(!example.prefix.empty() && !example.target.empty());
  batch.add_sequence();
  batch.segments.push_back({batch.sequences - 1, 0, false});
  batch.tokens.insert(batch.tokens.end(), example.prefix.begin(), example.prefix.end());
  batch.tokens.insert(batch.tokens.end(), example.target.begin(), example.target.end() - 1);
  batch.targets.insert(batch.targets.end(), example.prefix.size() - 1, -1);
  batch.targets.insert(batch.targets.end(), example.target.begin(), example.target.end());
  batch.offsets.push_back(batch.rows());
}

int64_t likeliest(const Tensor& logits, int64_t row) {
  int64_t best = 0;
  for (int64_t v = 1; v < logits.cols; ++v)
    if (number_at(logits, row, v) > number_at(logits, row, best)) best = v;
  return best;
}

class TaskRun {
 public:
  TaskRun(Inference& inference, Task& task) : inference_(inference), task_(task), forward_(inference) {
    for (TaskGroup& group : task.groups()) results_.push_back({.group = std::move(group)});
    nats_.resize(results_.size());
  }

  // The next examples; false when there are no more.
  bool advance(int64_t batch_size) {
    batch_.clear();
    groups_.clear();
    for (TaskExample example; batch_.rows() < BatchForward::kRowsPerPass &&
                              (batch_size == 0 || batch_.sequences < batch_size) && task_.next(example);) {
      expect_room(example);
      append(batch_, example);
      groups_.push_back(example.group);
      TaskResult& result = results_.at(example.group);
      ++result.examples;
      result.context_tokens += static_cast<int64_t>(example.prefix.size());
    }
    right_.assign(groups_.size(), true);
    forward_.run(batch_, batch_.rows(), [&](const BatchForward::Pass& pass) { score(pass); });
    for (size_t i = 0; i < groups_.size(); ++i) results_[groups_[i]].correct += right_[i];
    done_ += batch_.sequences;
    return batch_.sequences > 0;
  }

  int64_t done() const { return done_; }
  std::vector<TaskResult> results() const {
    std::vector<TaskResult> results;
    for (size_t g = 0; g < results_.size(); ++g) {
      if (results_[g].examples == 0) continue;
      results.push_back(results_[g]);
      results.back().bits = nats_[g].value() * kBitsPerNat;
    }
    return results;
  }

 private:
  void expect_room(const TaskExample& example) const {
    const auto tokens = static_cast<int64_t>(example.prefix.size() + example.target.size()) - 1;
    const int64_t limit = inference_.model().config().longest_text();
    if (limit > 0 && tokens > limit)
      fail(
          "example {}: attention remembers {} tokens of a text and this one has {}; expected shorter ones "
          "(recall: --distances), or a model whose attention looks back over a window",
          done_ + batch_.sequences + 1, limit, tokens);
  }

  // Only rows with a target meet the head: of long examples they are few.
  void score(const BatchForward::Pass& pass) {
    rows_.clear();
    targets_.clear();
    for (int64_t r = 0; r < pass.hidden.rows; ++r) {
      const int32_t target = batch_.targets[static_cast<size_t>(pass.begin + r)];
      if (target < 0) continue;
      rows_.push_back(r);
      targets_.push_back(target);
    }
    const auto count = static_cast<int64_t>(rows_.size());
    if (count == 0) return;
    const Tensor gathered = pass.memory.tensor(count, pass.hidden.cols, pass.hidden.dtype);
    const auto bytes = static_cast<size_t>(pass.hidden.cols * size_of(pass.hidden.dtype));
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(gathered.rows_of(i, 1).data, pass.hidden.rows_of(rows_[static_cast<size_t>(i)], 1).data,
                  bytes);
    const int64_t vocabulary = inference_.model().config().vocab_size;
    const int64_t at_once = std::max<int64_t>(1, kLogitsAtOnce / vocabulary);
    for (int64_t begin = 0; begin < count; begin += at_once)
      score(pass.begin, gathered.rows_of(begin, std::min(at_once, count - begin)), begin);
  }

  // `hidden`: those of rows_ from `first` on.
  void score(int64_t pass_begin, const Tensor& hidden, int64_t first) {
    const Tensor logits = inference_.logits(hidden);
    for (int64_t i = 0; i < hidden.rows; ++i)
      if (likeliest(logits, i) != targets_[static_cast<size_t>(first + i)])
        right_[example_of(pass_begin + rows_[static_cast<size_t>(first + i)])] = false;
    const Tensor losses = inference_.losses(hidden, targets_.data() + first);
    for (int64_t i = 0; i < hidden.rows; ++i)
      nats_[groups_[example_of(pass_begin + rows_[static_cast<size_t>(first + i)])]].add(
          number_at(losses, 0, i));
  }

  size_t example_of(int64_t row) const {
    return static_cast<size_t>(std::upper_bound(batch_.offsets.begin(), batch_.offsets.end(), row) -
                               batch_.offsets.begin() - 1);
  }

  Inference& inference_;
  Task& task_;
  BatchForward forward_;
  std::vector<TaskResult> results_;  // of each group
  std::vector<ExactSum> nats_;
  int64_t done_ = 0;
  // Of the examples at hand:
  Batch batch_;
  std::vector<size_t> groups_;
  std::vector<bool> right_;
  // Of a pass: its rows that have targets, and these.
  std::vector<int64_t> rows_;
  std::vector<int32_t> targets_;
};

}  // namespace

double TaskResult::perplexity() const { return std::exp2(bits_per_target()); }

std::vector<TaskResult> run_task(Inference& inference, Task& task, const TaskOptions& options) {
  TaskRun run(inference, task);
  while (run.advance(options.batch_size)) {
    if (!options.show_progress) continue;
    const int64_t all = task.examples();
    progress(all > 0 ? fmt::format("evaluating: {} of {} examples", run.done(), all)
                     : fmt::format("evaluating: {} examples", run.done()));
  }
  return run.results();
}

}  // namespace harmonic
