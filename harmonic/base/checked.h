// Arithmetic on sizes that come from outside: overflow is an error, never a wrap.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include "harmonic/base/error.h"

namespace harmonic {

// `what` names the quantity in the error message. Both throw Error on overflow of int64.
inline int64_t checked_mul(int64_t a, int64_t b, std::string_view what) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) fail("{}: {} x {} is too large", what, a, b);
  return result;
}
inline int64_t checked_add(int64_t a, int64_t b, std::string_view what) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result)) fail("{}: {} + {} is too large", what, a, b);
  return result;
}

// Converts between integer types; throws Error when the value does not fit.
template <typename To, typename From>
To checked_narrow(From value, std::string_view what) {
  static_assert(std::is_integral_v<To> && std::is_integral_v<From>);
  const To result = static_cast<To>(value);
  if (static_cast<From>(result) != value || ((result < To{}) != (value < From{})))
    fail("{}: {} does not fit its field", what, value);
  return result;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

}  // namespace harmonic
