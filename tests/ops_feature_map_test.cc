#include "harmonic/ops/feature_map.h"

#include <gtest/gtest.h>

#include "harmonic/ops/squared_error.h"
#include "op_check.h"

namespace harmonic {
namespace {

void feature_map(Trial& trial, int64_t rows, int64_t heads, int64_t width, int64_t half, bool add) {
  const Tensor x = trial.input("x", rows, heads * width);
  const Tensor weight = trial.input("weight", heads * width, half);
  const Tensor y = trial.output("y", rows, heads * 2 * half);
  trial(FeatureMap{x, weight, heads, y});
  trial(FeatureMapBackward{.x = x,
                           .weight = weight,
                           .y = y,
                           .heads = heads,
                           .dy = trial.cotangent("y"),
                           .dx = trial.gradient("x", add),
                           .dweight = trial.summed_gradient("weight")});
}

TEST(FeatureMap, MatchesTheReferenceInOutputAndGradients) {
  for_all_sizes([](int64_t rows, int64_t width, const std::string& where) {
    for (const bool add : {false, true})
      expect_matches_reference([&](Trial& trial) { feature_map(trial, rows, 2, width, 9, add); }, where,
                               {{"y", 2}, {"gradient of x", 5}, {"gradient of weight", 5}});
  });
}

TEST(FeatureMap, GradientsEqualCentralDifferences) {
  for (const bool add : {false, true})
    expect_gradients_equal_differences([&](Trial& trial) { feature_map(trial, 4, 2, 3, 2, add); });
}

TEST(FeatureMap, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  expect_same_bits_on_every_machine([](Trial& trial) { feature_map(trial, 300, 3, 33, 20, true); }, "");
}

// So that a state may stand for a sum of scores, and their weights be divided by.
TEST(FeatureMap, FeaturesArePositiveAndSumToOneWhateverTheInput) {
  for (const TestedBackend& tested : tested_backends())
    for (const double size : {1.0, 500.0}) {
      Trial trial(tested.backend, 1);
      trial(FeatureMap{trial.input("x", 7, 4, -size, size), trial.input("weight", 4, 3), 1,
                       trial.output("y", 7, 6)});
      const std::vector<double> y = trial.values("y");
      for (size_t r = 0; r < 7; ++r) {
        double sum = 0;
        for (size_t f = 0; f < 6; ++f) {
          EXPECT_GE(y[r * 6 + f], 0);
          sum += y[r * 6 + f];
        }
        EXPECT_NEAR(sum, 1, 1e-6) << tested.backend.name;
      }
    }
}

void squared_error(Trial& trial, int64_t rows, int64_t channels) {
  constexpr double kScale = 0.25;
  const Tensor losses = trial.changed("losses", 1, rows);
  trial.constant_cotangent("losses", kScale);
  trial(SquaredError{.x = trial.input("x", rows, channels),
                     .target = trial.input("target", rows, channels),
                     .losses = losses,
                     .scale = 0.5,
                     .loss_scale = kScale,
                     .dx = trial.written_gradient("x")});
}

TEST(SquaredError, MatchesTheReferenceInLossesAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    expect_matches_reference([&](Trial& trial) { squared_error(trial, rows, channels); }, where);
  });
}

TEST(SquaredError, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { squared_error(trial, 3, 4); });
}

TEST(SquaredError, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  expect_same_bits_on_every_machine([](Trial& trial) { squared_error(trial, 300, 33); }, "");
}

}  // namespace
}  // namespace harmonic
