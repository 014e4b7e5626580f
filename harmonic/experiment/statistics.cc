#include "harmonic/experiment/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// ln Gamma(x) of a half of a whole number, 2 x = `twice`: by the recurrence, exact but for rounding.
double log_gamma_of_half(int64_t twice) {
  double sum = twice % 2 ? 0.5 * std::log(std::acos(-1.0)) : 0.0;
  for (int64_t i = twice - 2; i > 0; i -= 2) sum += std::log(0.5 * static_cast<double>(i));
  return sum;
}

// The continued fraction of the incomplete beta function (Abramowitz and Stegun 26.5.8), by Lentz's method.
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300, kPrecision = 1e-15;
  const auto nonzero = [](double value) { return std::abs(value) < kTiny ? kTiny : value; };
  double c = 1, d = 1 / nonzero(1 - (a + b) * x / (a + 1)), fraction = d;
  for (int m = 1; m < 10'000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / nonzero(1 + even * d);
    c = nonzero(1 + even / c);
    fraction *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / nonzero(1 + odd * d);
    c = nonzero(1 + odd / c);
    fraction *= d * c;
    if (std::abs(d * c - 1) < kPrecision) break;
  }
  return fraction;
}

// I_x(n / 2, 1 / 2), the regularised incomplete beta function.
double incomplete_beta(double x, int64_t n) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  const double a = 0.5 * static_cast<double>(n), b = 0.5;
  const double front = std::exp(log_gamma_of_half(n + 1) - log_gamma_of_half(n) - log_gamma_of_half(1) +
                                a * std::log(x) + b * std::log1p(-x));
  // The fraction converges fast on this side of the mean only.
  return x < (a + 1) / (a + b + 2) ? front * beta_fraction(a, b, x) / a
                                   : 1 - front * beta_fraction(b, a, 1 - x) / b;
}

}  // namespace

Summary summarize(std::span<const double> values) {
  Summary summary;
  summary.count = static_cast<int64_t>(values.size());
  summary.mean = summary.sd = summary.half_width = kNaN;
  if (values.empty()) return summary;
  const double n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  summary.mean = sum / n;
  if (values.size() < 2) return summary;
  for (const double value : values) squares += (value - summary.mean) * (value - summary.mean);
  summary.sd = std::sqrt(squares / (n - 1));
  summary.half_width = student_t_quantile(0.975, summary.count - 1) * summary.sd / std::sqrt(n);
  return summary;
}

PairedDifference paired_difference(std::span<const double> a, std::span<const double> b) {
  HARMONIC_ASSERT(a.size() == b.size());
  PairedDifference paired;
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) {
    differences.push_back(a[i] - b[i]);
    ++(a[i] < b[i] ? paired.below : a[i] > b[i] ? paired.above : paired.equal);
  }
  paired.difference = summarize(differences);
  paired.sign_test_p = two_sided_sign_test(paired.below, paired.above);
  return paired;
}

double two_sided_sign_test(int64_t below, int64_t above) {
  HARMONIC_ASSERT(below >= 0 && above >= 0);
  const int64_t n = below + above, fewer = std::min(below, above);
  const double nd = static_cast<double>(n);
  double tail = 0, log_choose = 0;  // ln of n over k
  for (int64_t k = 0; k <= fewer; ++k) {
    tail += std::exp(log_choose - nd * std::log(2.0));
    log_choose += std::log((nd - static_cast<double>(k)) / static_cast<double>(k + 1));
  }
  return std::min(1.0, 2 * tail);
}

double student_t_probability(double t, int64_t degrees) {
  HARMONIC_ASSERT(degrees >= 1);
  const double n = static_cast<double>(degrees);
  const double beyond = 0.5 * incomplete_beta(n / (n + t * t), degrees);
  return t > 0 ? 1 - beyond : beyond;
}

double student_t_quantile(double p, int64_t degrees) {
  HARMONIC_ASSERT(p >= 0.5 && p < 1);
  double low = 0, high = 1;
  while (student_t_probability(high, degrees) < p) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (student_t_probability(middle, degrees) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace harmonic
