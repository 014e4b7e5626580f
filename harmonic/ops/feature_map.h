// What makes scores of queries and keys positive sums over features, so that a state can hold them (Zhang et
// al., arXiv 2402.04347): a learned map of each head, and a softmax over what it gives and its opposite:
//   u_h = x_h W_h,  y_h = softmax([u_h, -u_h])
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct FeatureMap {
  Tensor x;           // [R, H*D]
  Tensor weight;      // [H*D, F/2]: head h has rows h*D to (h + 1)*D - 1
  int64_t heads = 1;  // H
  Tensor y;           // [R, H*F]
};

struct FeatureMapBackward {
  Tensor x, weight, y;  // y as forward left it
  int64_t heads = 1;
  Tensor dy;       // [R, H*F]
  Gradient dx;     // [R, H*D]
  Tensor dweight;  // [H*D, F/2], +=
};

HARMONIC_DECLARE_OP(FeatureMap);
HARMONIC_DECLARE_OP(FeatureMapBackward);

}  // namespace harmonic
