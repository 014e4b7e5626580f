// The recurrence of the selective cell: each of N channels keeps 16 numbers, written by a key and read by a
// query:
//   delta = softplus(dt)
//   S_t   = exp(-delta exp(a_log)) S_{t-1} + (delta u) key^T
//   y_t   = (S_t query + skip u_t) silu(z_t)
// Mamba's recurrence (Gu and Dao, arXiv 2312.00752), where a_log has a rate for each number; without it all
// rates are 1, one decay a channel. Backward recomputes the states, a tile of rows at a time (kScanTile),
// from the ones kept at tile borders.
#pragma once

#include "harmonic/ops/decay_scan.h"

namespace harmonic {

inline constexpr int64_t kSelectiveState = 16;

struct SelectiveScan {
  Tensor u, z, dt;    // [R, N]; dt before the softplus, its bias included
  Tensor key, query;  // [R, 16]
  Tensor skip;        // [1, N]
  Tensor a_log;       // [N, 16] or null (zeros)
  Segments segments;
  Tensor state_in;   // [B, 16*N]: number i of channel c at i*N + c
  Tensor y;          // [R, N]
  Tensor state_out;  // [B, 16*N]
  Tensor borders;    // [scan_tiles, 16*N] or null: receives the state before each tile, for backward
};

struct SelectiveScanBackward {
  Tensor u, z, dt, key, query, skip, a_log;
  Segments segments;
  Tensor borders;       // as forward left it
  Tensor dy;            // [R, N]
  Tensor dstate_out;    // [B, 16*N] or null (zero)
  Tensor du, dz, ddt;   // [R, N], overwritten
  Tensor dkey, dquery;  // [R, 16], overwritten
  Tensor dstate_in;     // [B, 16*N] or null, overwritten
  Tensor dskip;         // [1, N], +=
  Tensor da_log;        // [N, 16], += ; null without a_log
};

HARMONIC_DECLARE_OP(SelectiveScan);
HARMONIC_DECLARE_OP(SelectiveScanBackward);

}  // namespace harmonic
