#include "harmonic/runtime/log_probabilities.h"

#include <gtest/gtest.h>

#include <cmath>

namespace harmonic {
namespace {

TEST(LogProbabilities, AreThoseOfTheSoftmaxAndTheLikeliestComeFirst) {
  std::vector<float> logits = {1, 3, -2, 3, 0};
  const Tensor row = {logits.data(), 1, 5, 5, DType::f32, Device::cpu};
  const LogProbabilities probabilities(row);
  double sum = 0;
  for (int32_t v = 0; v < 5; ++v) sum += std::exp(probabilities.of(v));
  EXPECT_NEAR(sum, 1, 1e-12);
  const auto best = probabilities.likeliest(3);
  ASSERT_EQ(best.size(), 3u);
  EXPECT_EQ(best[0].token, 1);
  EXPECT_EQ(best[1].token, 3);
  EXPECT_EQ(best[2].token, 0);
  EXPECT_EQ(best[0].logprob, probabilities.of(1));
  EXPECT_EQ(probabilities.likeliest(99).size(), 5u);
}

}  // namespace
}  // namespace harmonic
