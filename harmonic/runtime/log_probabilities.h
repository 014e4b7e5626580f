// What a model thought of every token that might come next.
#pragma once

#include <cstdint>
#include <vector>

#include "harmonic/tensor/tensor.h"

namespace harmonic {

struct TokenLogProbability {
  int32_t token = 0;
  double logprob = 0;  // natural logarithm
};

// Of one row of logits [1, V], before temperature and filters. The same numbers on every machine. Throws
// Error when a logit is not finite.
class LogProbabilities {
 public:
  // The logits must outlive it.
  explicit LogProbabilities(const Tensor& logits);

  double of(int32_t token) const;
  // The `count` likeliest, the likeliest first; of equal ones the lower id comes first.
  std::vector<TokenLogProbability> likeliest(int64_t count) const;

 private:
  Tensor logits_;
  double normalizer_ = 0;  // log of the sum of e^logit
};

}  // namespace harmonic
