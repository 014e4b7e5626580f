#include "harmonic/eval/evaluation.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "harmonic/base/log.h"
#include "harmonic/eval/batch_forward.h"
#include "harmonic/eval/exact_sum.h"

namespace harmonic {
namespace {

struct Sum {
  int64_t tokens = 0;
  ExactSum nats;
  void add(double loss) {
    ++tokens;
    nats.add(loss);
  }
  TargetBits value() const { return {tokens, nats.value() * kBitsPerNat}; }
};

// The losses of all targets, and of those that have something in common.
class Sums {
 public:
  // t: the position of the token that was read last, from where the state was zero.
  void add(uint64_t t, double loss) {
    const auto context = static_cast<size_t>(std::bit_width(t + 1)) - 1;
    if (by_context_.size() <= context) by_context_.resize(context + 1);
    all_.add(loss);
    by_context_[context].add(loss);
    by_phase_[t % by_phase_.size()].add(loss);
  }
  int64_t tokens() const { return all_.tokens; }
  void write(EvaluationResult& result) const {
    result.tokens = all_.tokens;
    result.bits = all_.value().bits;
    for (const Sum& sum : by_context_) result.by_context.push_back(sum.value());
    for (size_t i = 0; i < by_phase_.size(); ++i) result.by_phase[i] = by_phase_[i].value();
  }

 private:
  Sum all_;
  std::vector<Sum> by_context_;
  std::array<Sum, EvaluationResult::kPhases> by_phase_;
};

// Adds the losses of the targets of a pass.
void score(Inference& inference, const Batch& batch, const BatchForward::Pass& pass, Sums& sums) {
  const int32_t* targets = batch.targets.data() + pass.begin;
  const Tensor losses = inference.losses(pass.hidden, targets);
  for (int64_t s = 0; s < pass.segments.count; ++s) {
    const int64_t begin = pass.segments.offsets[s];
    for (int64_t r = begin; r < pass.segments.offsets[s + 1]; ++r)
      if (targets[r] >= 0)
        sums.add(static_cast<uint64_t>(pass.positions[s] + r - begin), number_at(losses, 0, r));
  }
}

}  // namespace

EvaluationResult evaluate(Inference& inference, const TokenCorpus& corpus, const EvaluationOptions& options) {
  BatchForward forward(inference);
  int64_t batch_size = options.batch_size;
  if (batch_size == 0)
    batch_size = forward.sequences_a_pass(std::clamp<int64_t>(options.length, 1, BatchForward::kRowsPerPass));
  // Lanes begin all over the split; its start comes first only in one lane. Each lane has a state.
  const bool caches = inference.model().state_layout().has_caches();
  if ((options.max_tokens > 0 || caches) && options.state == EvaluationState::carry) batch_size = 1;
  EvaluationWindows windows(corpus, options.length, options.state, batch_size);
  const int64_t all =
      options.max_tokens > 0 ? std::min(options.max_tokens, windows.targets()) : windows.targets();
  if (options.state == EvaluationState::carry) forward.carry_states(batch_size);
  Sums sums;
  while (sums.tokens() < all) {
    const Batch* batch = windows.next();
    HARMONIC_ASSERT(batch);
    forward.run(*batch, std::min(batch->rows(), all - sums.tokens()),
                [&](const BatchForward::Pass& pass) { score(inference, *batch, pass, sums); });
    if (options.show_progress)
      progress(fmt::format("evaluating: {:.0f} % of {} tokens",
                           100 * static_cast<double>(sums.tokens()) / static_cast<double>(all), all));
  }
  EvaluationResult result;
  sums.write(result);
  result.bytes =
      all == windows.targets()
          ? windows.source_bytes()
          : std::max<int64_t>(1, std::llround(static_cast<double>(all) * corpus.bytes_per_token()));
  return result;
}

}  // namespace harmonic
