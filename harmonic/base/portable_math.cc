#include "harmonic/base/portable_math.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace harmonic::portable {
namespace {

constexpr double kLn2 = 0.693147180559945309417;
constexpr double kPi = 3.14159265358979323846;
constexpr auto kInverseFactorials = [] {
  std::array<double, 12> values{1};
  for (size_t i = 1; i < values.size(); ++i) values[i] = values[i - 1] / static_cast<double>(i);
  return values;
}();

}  // namespace

double expm1(double x) {
  // Halved until its series is short, then doubled back: e^2x - 1 = y (y + 2) with y = e^x - 1.
  int halvings = 0;
  for (; x > 0.5 || x < -0.5; x /= 2) ++halvings;
  double term = x, sum = x;
  for (int k = 2; k <= 16; ++k) {
    term *= x / k;
    sum += term;
  }
  for (; halvings > 0; --halvings) sum *= sum + 2;
  return sum;
}

double exp2(double x) {
  const double whole = std::nearbyint(x);
  return std::ldexp(1 + expm1((x - whole) * kLn2), static_cast<int>(whole));
}

double exp_falling(double x) {
  if (x < -700) return 0;
  // Rounded to a whole number n by the sum, whose lowest bits are n's then.
  constexpr double kMagic = 0x1.8p52;
  const double shifted = x * std::numbers::log2e + kMagic, n = shifted - kMagic;
  // ln 2 in two parts: the first has few enough bits for its product to be exact.
  const double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
  double sum = 0;
  for (size_t i = kInverseFactorials.size(); i-- > 0;) sum = sum * r + kInverseFactorials[i];
  // 2^n is a normal number, and so is the product: n is added to the exponent.
  return std::bit_cast<double>(std::bit_cast<uint64_t>(sum) + (std::bit_cast<uint64_t>(shifted) << 52));
}

double log(double x) {
  // x = m 2^e with m in [1/sqrt(2), sqrt(2)]; log m = 2 artanh(f), f = (m - 1) / (m + 1).
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double f = (m - 1) / (m + 1), square = f * f;
  double power = f, sum = f;
  for (int k = 3; k <= 21; k += 2) {
    power *= square;
    sum += power / k;
  }
  return exponent * kLn2 + 2 * sum;
}

double cos_pi(double x) {
  // sin(pi (1/2 - x)) by its series: the terms after the 21st power are below 2^-53.
  const double angle = kPi * (0.5 - x), square = angle * angle;
  double term = angle, sum = angle;
  for (int k = 3; k <= 21; k += 2) {
    term *= -square / (k * (k - 1));
    sum += term;
  }
  return sum;
}

void sin_cos_turns(double turns, double& sine, double& cosine) {
  // Within an eighth of a turn of a quarter: there the series are short.
  const double quarters = std::nearbyint(4 * turns);
  const double x = 2 * kPi * (turns - quarters / 4), square = x * x;
  double s = 1, c = 1;
  for (int k = 14; k >= 2; k -= 2) {
    c = 1 - square / (k * (k - 1)) * c;
    s = 1 - square / (k * (k + 1)) * s;
  }
  s *= x;
  const int64_t quarter = static_cast<int64_t>(quarters) & 3;
  sine = quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c;
  cosine = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
}

}  // namespace harmonic::portable
