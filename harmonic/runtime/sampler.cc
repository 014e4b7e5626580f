#include "harmonic/runtime/sampler.h"

#include <algorithm>
#include <cmath>

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
  candidates_.clear();
  taken_ = 0;
  for (int64_t v = 0; v < logits.cols; ++v) {
    const double logit = number_at(logits, 0, v);
    if (!std::isfinite(logit))
      fail("the model's logits are not finite; its weights are damaged or it has diverged");
    candidates_.push_back({logit, 1, static_cast<int32_t>(v)});
  }
  const Candidate likeliest = *std::max_element(candidates_.begin(), candidates_.end(), less_likely);
  if (options_.temperature <= 0) return likeliest.token;

  // Sums are taken in the order of ids or of ranks: in no order that a library could choose.
  if (options_.top_k > 0 && options_.top_k < logits.cols) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(),
                      [](const Candidate& a, const Candidate& b) { return less_likely(b, a); });
    candidates_.erase(end, candidates_.end());
  }
  double total = 0, mass = 0;  // of all; of those that are kept
  for (Candidate& candidate : candidates_) {
    candidate.weight = portable::exp_falling((candidate.logit - likeliest.logit) / options_.temperature);
    total += candidate.weight;
    if (candidate.weight >= options_.min_p) mass += candidate.weight;
  }
  std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
  size_t kept = candidates_.size();
  if (options_.top_p < 1) {
    mass = ranked(0).weight;
    for (kept = 1; kept < candidates_.size() && mass < options_.top_p * total; ++kept) {
      if (ranked(kept).weight < options_.min_p) break;
      mass += ranked(kept).weight;
    }
  }
  double remaining = Random(options_.seed, stream_of("sample")).uniform(index) * mass;
  int32_t token = likeliest.token;
  for (size_t rank = 0; rank < kept; ++rank) {
    const Candidate& candidate = ranked(rank);
    if (rank > 0 && candidate.weight < options_.min_p) break;
    token = candidate.token;
    if (remaining < candidate.weight) break;
    remaining -= candidate.weight;
  }
  return token;
}

}  // namespace harmonic
