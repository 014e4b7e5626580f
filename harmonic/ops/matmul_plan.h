// What the matrix product's planning (matmul_cpu.cc) and its per-target parts (matmul_*-inl.h) share.
#pragma once

#include <cstdint>

#include "harmonic/ops/matmul.h"

namespace harmonic {

// Columns of a packed panel.
constexpr int64_t kPanel = 16;
// k is taken this many at a time, so that a pair of panels stays in the L1 cache.
constexpr int64_t kBlockK = 256;
// Floats from one packed row of A to the next: a cache line more, so that rows do not fall on the same sets.
constexpr int64_t kRowStride = kBlockK + 16;
// Most rows of a tile: their packed copy stays in the L2 cache.
constexpr int64_t kTileRows = 336;
// The largest step over k, in floats, at which A is read where it is.
constexpr int64_t kInPlaceStride = 256;
// Up to so many rows B streams past a packed A.
constexpr int64_t kFewRows = 14;

// One product, or the part of one over a range of columns and of k.
struct Product {
  int64_t M = 0, N = 0, K = 0;
  MatrixView A = {}, B = {};
  PackedMatrix packed = {};  // B in panels; null data: pack on the way
  float* C = nullptr;
  int64_t ldc = 0;
  bool from_c = false;  // start from the old C
  bool negate = false;  // subtract
  const float* bias = nullptr;
  bool in_bf16 = false;
  bool with_amx = false;
};

// Whether B is packed as the kernel reads it.
inline bool is_ready(const Product& product) {
  const PackedMatrix& B = product.packed;
  return B.data && (product.in_bf16 ? B.in_pairs : B.dtype == DType::f32);
}

// Whether the kernels of the vectors in use have products of pairs of bf16; the processor may still lack
// them.
bool kernels_multiply_pairs();

// How many k a step of the kernel takes.
inline int64_t step_of(const Product& product) { return product.in_bf16 ? 2 : 1; }

// A row whose largest number is below this becomes zero as int8: its scale would be no normal number.
constexpr float kSmallestRow = 0x1p-100f;

// Where the scales of a packed matrix of i8 begin.
inline const float* scales_of(const PackedMatrix& packed) {
  return reinterpret_cast<const float*>(static_cast<const char*>(packed.data) +
                                        (packed.N + kPanel - 1) / kPanel * kPanel * packed.K);
}

// Bytes of a block of k of a panel.
inline int64_t panel_block_bytes(DType dtype) {
  return kPanel * (dtype == DType::q8_0 ? 2 + kBlockNumbers : 4 + kBlockNumbers / 2);
}

// Bytes from one panel of a packed matrix to the next.
inline int64_t panel_bytes(DType dtype, int64_t K) {
  return is_blocks(dtype) ? K / kBlockNumbers * panel_block_bytes(dtype) : K * kPanel * size_of(dtype);
}

struct Tile {
  int64_t row_begin, row_end, panel_begin, panel_end;
  int64_t next_row;  // where the tile that this thread is likely to take next begins; M for none
};

}  // namespace harmonic
