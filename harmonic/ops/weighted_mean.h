// What a matrix cell reads, as a mean: each head's D sums over its sum of weights, the last of D + 1 columns:
//   y_i = x_i / (w + kWeightEpsilon)
// Where nothing has been read yet, all are zero and the mean is too.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

inline constexpr double kWeightEpsilon = 1e-6;

struct WeightedMean {
  Tensor x;           // [R, H*(D+1)]; weights are not negative
  int64_t heads = 1;  // H
  Tensor y;           // [R, H*D]
};

struct WeightedMeanBackward {
  Tensor x, y;  // y as forward left it
  int64_t heads = 1;
  Tensor dy;  // [R, H*D]
  Tensor dx;  // [R, H*(D+1)], overwritten
};

HARMONIC_DECLARE_OP(WeightedMean);
HARMONIC_DECLARE_OP(WeightedMeanBackward);

}  // namespace harmonic
