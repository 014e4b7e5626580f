// A sum of numbers that does not depend on their order.
#pragma once

namespace harmonic {

// Numbers are rounded to multiples of 2^-40 and added as integers, exactly. For fewer than 2^50 numbers below
// 2^30 in magnitude; larger ones and those that are not finite make it nan.
class ExactSum {
 public:
  void add(double number);
  double value() const;

 private:
  __int128 units_ = 0;
  bool broken_ = false;
};

}  // namespace harmonic
