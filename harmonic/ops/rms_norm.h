// y = x / sqrt(mean(x^2) + epsilon) * weight * gain, row by row.  Zhang and Sennrich, arXiv 1910.07467.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

inline constexpr double kRmsNormEpsilon = 1e-5;

struct RmsNorm {
  Tensor x;       // [R, C]
  Tensor weight;  // [1, C]
  Tensor gain;    // [1, C] or null (1): the learned weight of a level in a combination
  Tensor y;       // [R, C]; on a card it may be of bf16 numbers
  double epsilon = kRmsNormEpsilon;
};

struct RmsNormBackward {
  Tensor x, weight, gain;
  Tensor dy;       // [R, C]
  Gradient dx;     // [R, C]
  Tensor dweight;  // [1, C], +=
  Tensor dgain;    // [1, C] or null, +=
  double epsilon = kRmsNormEpsilon;
};

HARMONIC_DECLARE_OP(RmsNorm);
HARMONIC_DECLARE_OP(RmsNormBackward);

}  // namespace harmonic
