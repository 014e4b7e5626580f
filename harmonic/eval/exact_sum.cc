#include "harmonic/eval/exact_sum.h"

#include <cmath>
#include <limits>

namespace harmonic {

void ExactSum::add(double number) {
  constexpr double kLargest = 1 << 30;
  if (!(std::abs(number) < kLargest)) {
    broken_ = true;
    return;
  }
  units_ += static_cast<__int128>(std::nearbyint(std::ldexp(number, 40)));
}

double ExactSum::value() const {
  return broken_ ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(static_cast<double>(units_), -40);
}

}  // namespace harmonic
