// How the packed form of a weight [M, K] lies on a card (PackWeight): rows of K numbers one after the other,
// each from a multiple of 16 bytes on and filled up with zeros, as lanes read 16 bytes at once and matrix
// units want them. bf16; or i8 as bytes q + 128, which become f32 by few instructions, and after all rows a
// scale, f32, for each. Numbers of f32 have no such form: a card's products read the weight itself.
#pragma once

#include "harmonic/base/checked.h"
#include "harmonic/tensor/tensor.h"

namespace harmonic {

inline constexpr int kPackedZero = 128;  // the byte of an i8's 0

inline int64_t packed_row_bytes(int64_t k, DType format) { return round_up(k * size_of(format), 16); }

// Elements in all. Throws Error when the number overflows.
inline int64_t packed_rows_size(int64_t m, int64_t k, DType format) {
  HARMONIC_ASSERT(format == DType::bf16 || format == DType::i8);
  const int64_t bytes = checked_mul(m, packed_row_bytes(k, format), "bytes of a packed weight");
  return format == DType::bf16 ? bytes / 2 : checked_add(bytes, 4 * m, "bytes of a packed weight");
}

// A view of one.
struct PackedRows {
  uint8_t* data = nullptr;
  int64_t stride = 0;       // bytes
  float* scales = nullptr;  // of i8
};
inline PackedRows packed_rows_of(const Tensor& packed, int64_t m, int64_t k) {
  HARMONIC_ASSERT(packed.cols == packed_rows_size(m, k, packed.dtype));
  auto* data = static_cast<uint8_t*>(packed.data);
  const int64_t stride = packed_row_bytes(k, packed.dtype);
  return {data, stride, packed.dtype == DType::i8 ? reinterpret_cast<float*>(data + m * stride) : nullptr};
}

}  // namespace harmonic
