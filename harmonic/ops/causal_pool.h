// The mean of each block of `ratio` rows. A block is closed by its last row; rows of a block that is still
// open wait in the state as a sum. Segment b starts with phases[b] rows already in its open block, 0 <=
// phases[b] < ratio.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct CausalPool {
  Tensor x;                         // [R, C]
  Segments segments;                // of x
  const int64_t* phases = nullptr;  // [B]
  int64_t ratio = 1;
  Segments blocks;   // of y: segment b closes floor((phases[b] + its rows) / ratio) blocks
  Tensor state_in;   // [B, C]: sum of the open block's rows; not read where phases[b] is 0
  Tensor y;          // [R', C]
  Tensor state_out;  // [B, C]: zero where no block is open
};

struct CausalPoolBackward {
  Segments segments;
  const int64_t* phases = nullptr;
  int64_t ratio = 1;
  Segments blocks;
  Tensor dy;          // [R', C]
  Tensor dstate_out;  // [B, C] or null (zero); not read where no block is left open
  Gradient dx;        // [R, C]
  Tensor dstate_in;   // [B, C] or null, overwritten; zero where phases[b] is 0
};

HARMONIC_DECLARE_OP(CausalPool);
HARMONIC_DECLARE_OP(CausalPoolBackward);

}  // namespace harmonic
