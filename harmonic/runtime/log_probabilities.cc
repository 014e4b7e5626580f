#include "harmonic/runtime/log_probabilities.h"

#include <algorithm>
#include <cmath>

#include "harmonic/base/portable_math.h"
#include "harmonic/model/inference.h"

namespace harmonic {

LogProbabilities::LogProbabilities(const Tensor& logits) : logits_(logits) {
  double most = number_at(logits, 0, 0);
  for (int64_t v = 0; v < logits.cols; ++v) {
    const double logit = number_at(logits, 0, v);
    if (!std::isfinite(logit))
      fail("the model's logits are not finite; its weights are damaged or it has diverged");
    most = std::max(most, logit);
  }
  double sum = 0;
  for (int64_t v = 0; v < logits.cols; ++v) sum += portable::exp_falling(number_at(logits, 0, v) - most);
  normalizer_ = most + portable::log(sum);
}

double LogProbabilities::of(int32_t token) const { return number_at(logits_, 0, token) - normalizer_; }

std::vector<TokenLogProbability> LogProbabilities::likeliest(int64_t count) const {
  std::vector<TokenLogProbability> best;  // sorted, the likeliest first
  const auto wanted = static_cast<size_t>(std::min(count, logits_.cols));
  const auto likelier = [](const TokenLogProbability& a, const TokenLogProbability& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
  };
  for (int64_t v = 0; v < logits_.cols && wanted > 0; ++v) {
    const auto token = static_cast<int32_t>(v);
    const TokenLogProbability candidate{token, of(token)};
    if (best.size() == wanted) {
      if (!likelier(candidate, best.back())) continue;
      best.pop_back();
    }
    best.insert(std::upper_bound(best.begin(), best.end(), candidate, likelier), candidate);
  }
  return best;
}

}  // namespace harmonic
