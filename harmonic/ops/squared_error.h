// How far rows are from others: losses[r] += scale sum_c (x[r, c] - target[r, c])^2.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct SquaredError {
  Tensor x, target;       // [R, C]
  Tensor losses;          // [1, R], +=
  double scale = 1;       // of the squares
  double loss_scale = 1;  // the gradient of each loss
  Tensor dx;              // [R, C] or null; overwritten
};

HARMONIC_DECLARE_OP(SquaredError);

}  // namespace harmonic
