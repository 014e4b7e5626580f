// Rotary position embedding (Su et al., arXiv 2104.09864), in the form of the Llama family: within each head
// of width D, numbers i and i + D/2 are turned by the angle position * frequencies[i].
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// The cosines, then the sines, of each row's angles, times `scale`; shared by all layers of a pass. With a
// `context` the frequencies of the row at position p >= context are those of a larger base (dynamic NTK
// scaling):
//   frequencies[i] (growth (p + 1) / context - (growth - 1))^(-2 i / (D - 2))
// Each token is turned by its own position, whatever the length of the text it is computed with.
struct RotaryTable {
  Segments segments;
  const int64_t* positions = nullptr;   // [B] tokens of the text before each segment's first row
  const double* frequencies = nullptr;  // [D/2], in radians a token
  Tensor y;                             // [R, D]
  double scale = 1;
  double growth = 1;    // at least 1
  int64_t context = 0;  // 0: the frequencies are the same everywhere; otherwise D > 2
};

// y = x turned (and scaled as the table), or turned back when `inverse` is set: the way of a gradient.
struct Rotate {
  Tensor x;      // [R, heads * D]
  Tensor table;  // [R, D]
  bool inverse = false;
  Tensor y;  // [R, heads * D]; may be x
};

HARMONIC_DECLARE_OP(RotaryTable);
HARMONIC_DECLARE_OP(Rotate);

}  // namespace harmonic
