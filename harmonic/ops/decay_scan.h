// The recurrence of the decay cell, fused with its gate and its output:
//   a   = sigmoid(-g)
//   s_t = a_t s_{t-1} + sqrt(1 - a_t^2) u_t        1 - a^2 = (1 + a) sigmoid(g)
//   y_t = (s_t + skip u_t) silu(z_t)
// Backward recomputes the states, a tile of rows at a time, from the ones kept at tile borders. With b =
// sqrt(1 - a^2): db/dg = a^2 sqrt(sigmoid(g) / (1 + a)), which divides by nothing that vanishes; da/dg = -a
// sigmoid(g).
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// Rows of a tile: a segment of T rows has ceil(T / kScanTile) tiles, counted from its own first row.
inline constexpr int64_t kScanTile = 64;
// Tiles of all segments: the number of rows of `borders`.
int64_t scan_tiles(const Segments& segments);

struct DecayScan {
  Tensor u, z, g;  // [R, N]; g before the sigmoid, its bias included
  Tensor skip;     // [1, N]
  Segments segments;
  Tensor state_in;   // [B, N]
  Tensor y;          // [R, N]; on a card it may be of bf16 numbers
  Tensor state_out;  // [B, N]
  Tensor borders;    // [scan_tiles, N] or null: receives the state before each tile, for backward
};

struct DecayScanBackward {
  Tensor u, z, g, skip;
  Segments segments;
  Tensor borders;     // as forward left it
  Tensor dy;          // [R, N]
  Tensor dstate_out;  // [B, N] or null (zero)
  Tensor du, dz, dg;  // [R, N], overwritten
  Tensor dstate_in;   // [B, N] or null, overwritten
  Tensor dskip;       // [1, N], +=
};

HARMONIC_DECLARE_OP(DecayScan);
HARMONIC_DECLARE_OP(DecayScanBackward);

}  // namespace harmonic
