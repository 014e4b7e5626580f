#include "harmonic/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace harmonic {
namespace {

TrainConfig with(const std::string& schedule, double warmup, double min_lr) {
  TrainConfig config;
  config.schedule = schedule;
  config.warmup = warmup;
  config.min_lr = min_lr;
  return config;
}

TEST(Schedule, WarmUpRisesInEqualStepsToThePeak) {
  for (const char* schedule : {"cosine", "wsd"}) {
    const TrainConfig config = with(schedule, 0.1, 0.1);
    for (int64_t step = 1; step <= 10; ++step)
      EXPECT_DOUBLE_EQ(learning_rate_share(config, step, 100), static_cast<double>(step) / 10);
  }
}

TEST(Schedule, CosineFollowsTheCosineDownToTheLeast) {
  const TrainConfig config = with("cosine", 0.1, 0.1);
  for (int64_t step = 11; step <= 100; ++step) {
    const double way = static_cast<double>(step - 10) / 90;
    EXPECT_NEAR(learning_rate_share(config, step, 100), 0.1 + 0.9 * (1 + std::cos(M_PI * way)) / 2, 1e-14);
  }
  EXPECT_NEAR(learning_rate_share(config, 100, 100), 0.1, 1e-14);
}

TEST(Schedule, WsdStaysAtThePeakAndFallsLinearlyOverTheLastFifth) {
  const TrainConfig config = with("wsd", 0.1, 0.2);
  for (int64_t step = 10; step <= 80; ++step) EXPECT_EQ(learning_rate_share(config, step, 100), 1);
  EXPECT_NEAR(learning_rate_share(config, 90, 100), 0.6, 1e-14);
  EXPECT_NEAR(learning_rate_share(config, 100, 100), 0.2, 1e-14);
}

TEST(Schedule, StaysWithinItsBoundsHoweverShortTheRunAndLongTheWarmUp) {
  for (const char* schedule : {"cosine", "wsd"}) {
    for (const double warmup : {0.0, 0.05, 0.9, 1.0}) {
      for (int64_t steps = 1; steps <= 12; ++steps) {
        for (int64_t step = 1; step <= steps; ++step) {
          const double share = learning_rate_share(with(schedule, warmup, 0), step, steps);
          EXPECT_TRUE(share >= -1e-15 && share <= 1) << schedule << warmup << ' ' << step << '/' << steps;
        }
      }
    }
  }
}

}  // namespace
}  // namespace harmonic
