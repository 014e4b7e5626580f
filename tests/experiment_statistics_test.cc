#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "harmonic/experiment/statistics.h"

namespace harmonic {
namespace {

TEST(Statistics, MeanAndDeviationOfFourNumbersAreThoseOfTheTextbook) {
  const std::vector<double> values = {2, 4, 4, 6};
  const Summary summary = summarize(values);
  EXPECT_EQ(summary.count, 4);
  EXPECT_DOUBLE_EQ(summary.mean, 4);
  EXPECT_DOUBLE_EQ(summary.sd, std::sqrt(8.0 / 3));
  // t(0.975, 3) = 3.18245.
  EXPECT_NEAR(summary.half_width, 3.18245 * std::sqrt(8.0 / 3) / 2, 1e-5);
  EXPECT_DOUBLE_EQ(summary.low() + summary.high(), 8);
}

TEST(Statistics, OneValueHasAMeanAndNoInterval) {
  const std::vector<double> values = {1.5};
  const Summary summary = summarize(values);
  EXPECT_EQ(summary.mean, 1.5);
  EXPECT_TRUE(std::isnan(summary.sd));
  EXPECT_TRUE(std::isnan(summary.half_width));
  EXPECT_TRUE(std::isnan(summarize({}).mean));
}

TEST(Statistics, EqualValuesHaveAnIntervalOfNoWidth) {
  const std::vector<double> values = {2, 2, 2};
  EXPECT_EQ(summarize(values).sd, 0);
  EXPECT_EQ(summarize(values).half_width, 0);
}

TEST(Statistics, QuantilesOfStudentsTAreThoseOfThePrintedTable) {
  const std::pair<int64_t, double> table[] = {
      {1, 12.7062},  {2, 4.30265},  {3, 3.18245},   {4, 2.77645},    {9, 2.26216},
      {10, 2.22814}, {30, 2.04227}, {100, 1.98397}, {1000, 1.96234}, {100'000, 1.95999}};
  for (const auto& [degrees, quantile] : table)
    EXPECT_NEAR(student_t_quantile(0.975, degrees), quantile, 1e-4) << degrees;
  EXPECT_NEAR(student_t_quantile(0.95, 4), 2.13185, 1e-5);
  EXPECT_NEAR(student_t_quantile(0.5, 4), 0, 1e-9);
  // One degree is Cauchy's distribution.
  EXPECT_NEAR(student_t_probability(1, 1), 0.75, 1e-12);
  EXPECT_NEAR(student_t_probability(-1, 1), 0.25, 1e-12);
}

// The paper's five seeds at 8K: its own intervals overlap, the paired difference does not.
TEST(Statistics, PairingBySeedShowsADifferenceThatUnpairedIntervalsHide) {
  const std::vector<double> harmonic = {6.3189, 6.5146, 6.4398, 6.5362, 6.7639};
  const std::vector<double> mamba = {6.3868, 6.5994, 6.5053, 6.5724, 6.8107};
  const PairedDifference paired = paired_difference(harmonic, mamba);
  // -0.0679 -0.0848 -0.0655 -0.0362 -0.0468: mean -0.06024, sd 0.019027.
  EXPECT_NEAR(paired.difference.mean, -0.06024, 1e-9);
  EXPECT_NEAR(paired.difference.sd, 0.019027, 1e-6);
  EXPECT_NEAR(paired.difference.half_width, 2.77645 * 0.019027 / std::sqrt(5.0), 1e-5);
  EXPECT_LT(paired.difference.high(), 0);
  EXPECT_GT(summarize(harmonic).high(), summarize(mamba).low());
  EXPECT_EQ(paired.below, 5);
  EXPECT_EQ(paired.above, 0);
  EXPECT_DOUBLE_EQ(paired.sign_test_p, 2.0 / 32);
}

TEST(Statistics, TheSignTestCountsTheTailsOfABinomial) {
  EXPECT_NEAR(two_sided_sign_test(1, 9), 2 * (1 + 10) / 1024.0, 1e-12);
  EXPECT_NEAR(two_sided_sign_test(9, 1), 2 * (1 + 10) / 1024.0, 1e-12);
  EXPECT_NEAR(two_sided_sign_test(2, 4), 2 * (1 + 6 + 15) / 64.0, 1e-12);
  EXPECT_EQ(two_sided_sign_test(3, 3), 1);
  EXPECT_EQ(two_sided_sign_test(0, 0), 1);
  EXPECT_GT(two_sided_sign_test(500, 1500), 0);  // small, and no underflow of 2^-2000 on the way
  const std::vector<double> a = {1, 2, 3}, b = {1, 3, 2};
  const PairedDifference tied = paired_difference(a, b);
  EXPECT_EQ(tied.equal, 1);
  EXPECT_EQ(tied.sign_test_p, 1);
}

}  // namespace
}  // namespace harmonic
