// Depthwise causal convolution over time, optionally followed by SiLU:
//   y[t, c] = act(bias[c] + sum_k weight[c, k] x[t - (K - 1) + k, c])
// The last tap (k = K - 1) reads the present row. Rows before a segment's first come from its state.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

enum class Activation : uint8_t { none, silu };

struct CausalConv {
  Tensor x;             // [R, C]
  Tensor weight, bias;  // [C, K] with K in 1..16; [1, C]
  Segments segments;
  Tensor state_in;   // [B, (K-1)*C]: the K-1 rows before the segment, oldest first
  Tensor y;          // [R, C]
  Tensor state_out;  // [B, (K-1)*C]
  Activation activation = Activation::none;
};

struct CausalConvBackward {
  Tensor x, weight, bias;
  Segments segments;
  Tensor state_in;
  Activation activation = Activation::none;
  Tensor dy;              // [R, C]
  Tensor dstate_out;      // [B, (K-1)*C] or null (zero)
  Gradient dx;            // [R, C]
  Tensor dstate_in;       // [B, (K-1)*C] or null, overwritten
  Tensor dweight, dbias;  // +=
};

HARMONIC_DECLARE_OP(CausalConv);
HARMONIC_DECLARE_OP(CausalConvBackward);

}  // namespace harmonic
