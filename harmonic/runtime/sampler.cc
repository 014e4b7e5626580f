#include "harmonic/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harmonic/base/portable_math.h"
#include "harmonic/base/random.h"
#include "harmonic/model/inference.h"

namespace harmonic {

// The candidate of this rank, 0 being the likeliest: the heap gives only as many as are asked for, since
// sorting a large vocabulary would cost more than the rest of a small model.
const Sampler::Candidate& Sampler::ranked(size_t rank) {
  for (; taken_ <= rank; ++taken_)
    std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(taken_), less_likely);
  return candidates_[candidates_.size() - 1 - rank];
}

int32_t Sampler::sample(const Tensor& logits, uint64_t index) {
  double most = -std::numeric_limits<double>::infinity();
  int32_t likeliest = 0;
  for (int64_t v = 0; v < logits.cols; ++v) {
    const double logit = number_at(logits, 0, v);
    if (!std::isfinite(logit))
      fail("the model's logits are not finite; its weights are damaged or it has diverged");
    if (logit > most) {
      most = logit;
      likeliest = static_cast<int32_t>(v);
    }
  }
  if (options_.temperature <= 0) return likeliest;

  candidates_.clear();
  taken_ = 0;
  for (int64_t v = 0; v < logits.cols; ++v)
    candidates_.push_back({number_at(logits, 0, v), 1, static_cast<int32_t>(v)});
  if (options_.top_k > 0 && options_.top_k < logits.cols) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(),
                      [](const Candidate& a, const Candidate& b) { return less_likely(b, a); });
    candidates_.erase(end, candidates_.end());
  }
  // Sums are taken in the order of ids or of ranks: in no order that a library could choose.
  double total = 0;
  for (Candidate& candidate : candidates_) {
    candidate.weight = portable::exp_falling((candidate.logit - most) / options_.temperature);
    total += candidate.weight;
  }
  if (options_.top_p < 1) {
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    double reached = ranked(0).weight;
    size_t kept = 1;
    for (; kept < candidates_.size() && reached < options_.top_p * total; ++kept)
      reached += ranked(kept).weight;
    candidates_.erase(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(kept));
  }
  std::erase_if(candidates_, [this](const Candidate& c) { return c.weight < options_.min_p; });
  if (options_.top_k > 0 || options_.top_p < 1)
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });

  double mass = 0;
  for (const Candidate& candidate : candidates_) mass += candidate.weight;
  double remaining = Random(options_.seed, stream_of("sample")).uniform(index) * mass;
  for (const Candidate& candidate : candidates_) {
    if (remaining < candidate.weight) return candidate.token;
    remaining -= candidate.weight;
  }
  return candidates_.back().token;  // what rounding left
}

}  // namespace harmonic
