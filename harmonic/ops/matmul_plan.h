// What the matrix product's planning (matmul_cpu.cc) and its per-target parts (matmul_kernel-inl.h) share.
#pragma once

#include <cstdint>

#include "harmonic/ops/matmul.h"

namespace harmonic {

constexpr int64_t kPanel = 16;  // columns of a packed panel
constexpr int64_t kBlockK =
    256;  // k is taken this many at a time, so that a pair of panels stays in the L1 cache
constexpr int64_t kRowStride = 272;  // floats from one packed row of A to the next, kBlockK and a cache line
constexpr int64_t kTileRows = 336;   // most rows of a tile: their packed copy stays in the L2 cache
constexpr int64_t kFewRows = 14;     // up to here B streams past a packed A

// One product, or the part of one over a range of columns and of k.
struct Product {
  int64_t M, N, K;
  MatrixView A, B;
  const float* packed;  // B in panels; null: pack on the way
  float* C;
  int64_t ldc;
  bool from_c;  // start from the old C
  bool negate;  // subtract
  const float* bias;
};

struct Tile {
  int64_t row_begin, row_end, panel_begin, panel_end;
};

}  // namespace harmonic
