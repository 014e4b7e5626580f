#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "harmonic/base/portable_math.h"

namespace harmonic {
namespace {

void expect_equal(const std::function<double(double)>& ours, const std::function<double(double)>& libm,
                  double from, double to) {
  constexpr int kSteps = 1000;
  for (int i = 0; i <= kSteps; ++i) {
    const double x = from + (to - from) * i / kSteps, expected = libm(x);
    EXPECT_NEAR(ours(x), expected, 1e-14 * std::abs(expected) + 1e-16) << "at " << x;
  }
}

TEST(PortableMath, TheFastExponentialEqualsLibmToTwelveDigits) {
  for (double x = 0; x > -700; x -= 0.37)
    EXPECT_NEAR(portable::exp_falling(x), std::exp(x), 1e-12 * std::exp(x));
  EXPECT_EQ(portable::exp_falling(0), 1);
  EXPECT_EQ(portable::exp_falling(-1000), 0);
}

TEST(PortableMath, EqualsLibmToFourteenDigits) {
  expect_equal(
      portable::expm1, [](double x) { return std::expm1(x); }, -2, 2);
  expect_equal(
      portable::expm1, [](double x) { return std::expm1(x); }, 1e-9, 1e-3);
  expect_equal(
      portable::expm1, [](double x) { return std::expm1(x); }, 1, 20);
  expect_equal(
      portable::exp2, [](double x) { return std::exp2(x); }, -40, 40);
  expect_equal(
      portable::log, [](double x) { return std::log(x); }, 1e-12, 1e-3);
  expect_equal(
      portable::log, [](double x) { return std::log(x); }, 1.5, 1e6);
  expect_equal(
      portable::cos_pi, [](double x) { return std::cos(3.14159265358979323846 * x); }, 0, 1);
}

TEST(PortableMath, LogKeepsItsDigitsBesideOne) {
  for (double x = -0.25; x <= 0.25; x += 0.01)
    EXPECT_NEAR(portable::log(1 + x), std::log(1 + x), 4e-15 * std::abs(std::log(1 + x)) + 2e-17) << x;
}

TEST(PortableMath, SineAndCosineOfManyTurns) {
  for (double turns : {0.0, 0.125, -0.125, 0.25, 0.5, 0.75, -0.3, 1.0 / 3, 12345.678, 1e6 + 0.1}) {
    double sine = 0, cosine = 0;
    portable::sin_cos_turns(turns, sine, cosine);
    const double angle = 2 * 3.14159265358979323846 * (turns - std::floor(turns));
    EXPECT_NEAR(sine, std::sin(angle), 2e-15) << turns;
    EXPECT_NEAR(cosine, std::cos(angle), 2e-15) << turns;
  }
}

}  // namespace
}  // namespace harmonic
