// The recurrence of the matrix cell, gated linear attention: each head of keys and values keeps a matrix that
// keys write and queries read (Katharopoulos et al., arXiv 2006.16236; Yang et al., arXiv 2312.06635):
//   a_j = sigmoid(-g_j)
//   S_j = a_j S_{j-1} + k_j [v_j, 1]^T                  for each block j of the level
//   y_t = exp(log_gain) q_t S_{j(t)}                    for each token t, j(t) the last block closed with it
// The last column is that of the sums of keys: what the first D are to be divided by (weighted_mean.h).
// Queries stand at token rate, keys, values and gates at the level's own rate: position t reads the state
// after block floor((t + 1) / stride) - 1, at stride 1 that of its own token. Heads of queries share the
// heads of keys in groups, as in grouped attention.
//
// Forward goes through the blocks in order, so that any split gives the same bits. Backward goes by tiles of
// kMatrixTile blocks from the states kept at their borders; within a tile all is matrix products.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

inline constexpr int64_t kMatrixTile = 32;
// Tiles of all segments, at least one each: the number of rows of `borders`.
int64_t matrix_tiles(const Segments& blocks);

struct MatrixShape {
  int64_t heads = 1;     // H, of queries
  int64_t kv_heads = 1;  // G, which divides H
  int64_t features = 1;  // F, numbers of a query and of a key
  int64_t values = 1;    // D, numbers of a value
  int64_t stride = 1;    // tokens of a block
  int64_t state() const { return kv_heads * features * (values + 1); }
};

struct MatrixScan {
  Tensor q;                         // [R, H*F]
  Tensor k, v, g;                   // [R', G*F], [R', G*D], [R', G]; g before the sigmoid, its bias included
  Tensor log_gain;                  // [1, H]
  Segments segments, blocks;        // of tokens, of blocks
  const int64_t* phases = nullptr;  // [B], tokens of the open block, 0 <= phases[b] < stride
  MatrixShape shape;
  Tensor state_in;   // [B, G*F*(D+1)]: number e of feature f of head h at (h*F + f)*(D+1) + e
  Tensor y;          // [R, H*(D+1)]
  Tensor state_out;  // [B, G*F*(D+1)]
  Tensor borders;    // [matrix_tiles, G*F*(D+1)] or null: the state before each tile, for backward
};

struct MatrixScanBackward {
  Tensor q, k, v, g, log_gain;
  Segments segments, blocks;
  const int64_t* phases = nullptr;
  MatrixShape shape;
  Tensor borders;         // as forward left it
  Tensor y;               // as forward left it
  Tensor dy;              // [R, H*(D+1)]
  Tensor dstate_out;      // [B, G*F*(D+1)] or null (zero)
  Tensor dq, dk, dv, dg;  // as q, k, v, g; overwritten
  Tensor dstate_in;       // [B, G*F*(D+1)] or null, overwritten
  Tensor dlog_gain;       // [1, H], +=
};

HARMONIC_DECLARE_OP(MatrixScan);
HARMONIC_DECLARE_OP(MatrixScanBackward);

}  // namespace harmonic
