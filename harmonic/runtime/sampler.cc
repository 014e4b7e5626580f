#include "harmonic/runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "harmonic/base/random.h"
#include "harmonic/model/inference.h"

namespace harmonic {

int32_t Sampler::sample(const Tensor& logits, uint64_t index) {
  candidates_.clear();
  for (int64_t v = 0; v < logits.cols; ++v) {
    const double logit = number_at(logits, 0, v);
    if (!std::isfinite(logit))
      fail("the model's logits are not finite; its weights are damaged or it has diverged");
    candidates_.push_back({logit, static_cast<int32_t>(v)});
  }
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  if (options_.temperature <= 0)
    return std::min_element(candidates_.begin(), candidates_.end(), likelier)->token;

  if (options_.top_k > 0 && options_.top_k < logits.cols) {
    const auto end = candidates_.begin() + options_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), likelier);
    candidates_.erase(end, candidates_.end());
  } else {
    std::sort(candidates_.begin(), candidates_.end(), likelier);
  }
  double total = 0;
  weights_.clear();
  for (const Candidate& candidate : candidates_) {
    weights_.push_back(std::exp((candidate.logit - candidates_[0].logit) / options_.temperature));
    total += weights_.back();
  }
  // The first is always kept; its weight is 1.
  size_t kept = 0;
  double mass = 0;
  while (kept < weights_.size() &&
         (kept == 0 || (mass < options_.top_p * total && weights_[kept] >= options_.min_p)))
    mass += weights_[kept++];
  double remaining = Random(options_.seed, stream_of("sample")).uniform(index) * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    if (remaining < weights_[i]) return candidates_[i].token;
    remaining -= weights_[i];
  }
  return candidates_[kept - 1].token;
}

}  // namespace harmonic
