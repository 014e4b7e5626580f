// y[t] = x[t - 1]; a segment's first row comes from its state, and its last row becomes the next state.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct Shift {
  Tensor x;  // [R, C]
  Segments segments;
  Tensor state_in;   // [B, C]
  Tensor y;          // [R, C]
  Tensor state_out;  // [B, C]
};

struct ShiftBackward {
  Segments segments;
  Tensor dy;          // [R, C]
  Tensor dstate_out;  // [B, C] or null (zero)
  Gradient dx;        // [R, C]
  Tensor dstate_in;   // [B, C] or null, overwritten
};

HARMONIC_DECLARE_OP(Shift);
HARMONIC_DECLARE_OP(ShiftBackward);

}  // namespace harmonic
