// What several seeds say: means, differences paired by seed, and how sure one may be of them.
#pragma once

#include <cstdint>
#include <span>

namespace harmonic {

// Of independent values. What one value cannot tell (sd, half_width) is NaN.
struct Summary {
  int64_t count = 0;
  double mean = 0;        // NaN without values
  double sd = 0;          // of the sample: n - 1 in the denominator
  double half_width = 0;  // of the 95 % confidence interval of the mean, by Student's t
  double low() const { return mean - half_width; }
  double high() const { return mean + half_width; }
};
Summary summarize(std::span<const double> values);

// a[i] - b[i], where both were measured with the same seed: what the seeds share cancels.
struct PairedDifference {
  Summary difference;
  int64_t below = 0, above = 0, equal = 0;  // pairs with a < b, a > b, a = b
  double sign_test_p = 1;
};
// The spans have the same length.
PairedDifference paired_difference(std::span<const double> a, std::span<const double> b);

// The chance of a split at least as uneven as this one when either side is equally likely. Ties are left out
// before, as usual with the sign test; 1 without any pair.
double two_sided_sign_test(int64_t below, int64_t above);

// P(T <= t) of Student's t, and the t for which it is p, 0.5 <= p < 1. degrees >= 1.
double student_t_probability(double t, int64_t degrees);
double student_t_quantile(double p, int64_t degrees);

}  // namespace harmonic
