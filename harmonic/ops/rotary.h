// Rotary position embedding (Su et al., arXiv 2104.09864), in the form of the Llama family: within each head
// of width D, numbers i and i + D/2 are turned by the angle position * frequencies[i].
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// The cosines, then the sines, of each row's angles; shared by all layers of a pass.
struct RotaryTable {
  Segments segments;
  const int64_t* positions = nullptr;   // [B] tokens of the text before each segment's first row
  const double* frequencies = nullptr;  // [D/2], in radians a token
  Tensor y;                             // [R, D]
};

// y = x turned, or turned back when `inverse` is set: the way of a gradient.
struct Rotate {
  Tensor x;      // [R, heads * D]
  Tensor table;  // [R, D]
  bool inverse = false;
  Tensor y;  // [R, heads * D]; may be x
};

HARMONIC_DECLARE_OP(RotaryTable);
HARMONIC_DECLARE_OP(Rotate);

}  // namespace harmonic
