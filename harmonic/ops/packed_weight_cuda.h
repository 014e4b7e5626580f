// Packed weights (packed_rows.h) for kernels, and for products that take matrices as they are.
#pragma once

#include "harmonic/ops/cuda_rounding.h"
#include "harmonic/ops/packed_rows.h"

namespace harmonic::cuda {

// Number k of a row.
__device__ inline float number_of(const PackedRows& rows, int64_t row, int64_t k) {
  const uint8_t* at = rows.data + row * rows.stride;
  if (rows.scales) return rows.scales[row] * static_cast<float>(static_cast<int>(at[k]) - kPackedZero);
  return float_of_bf16(reinterpret_cast<const uint16_t*>(at)[k]);
}

// Rows [first, first + count) of a packed weight [m, k], as multiply() takes them: f32, or, where products
// are of bf16 numbers, bf16, which packed rows of bf16 are already.
inline Tensor unpacked(Context& context, const Tensor& packed, int64_t m, int64_t k, int64_t first,
                       int64_t count) {
  const PackedRows from = packed_rows_of(packed, m, k);
  const bool narrow = precision() == Precision::bf16;
  if (narrow && !from.scales)
    return {from.data + first * from.stride, count, k, from.stride / 2, DType::bf16, packed.device};
  const Tensor result =
      narrow ? aligned_scratch(context, count, k, DType::bf16) : scratch_tensor(context, count, k);
  auto* halves = static_cast<uint16_t*>(result.data);
  auto* numbers = static_cast<float*>(result.data);
  const int64_t stride = result.stride;
  for_each_element(count, k, [=] __device__(int64_t r, int64_t c) {
    const float number = number_of(from, first + r, c);
    if (narrow) {
      halves[r * stride + c] = bf16_of(number);
    } else {
      numbers[r * stride + c] = number;
    }
  });
  return result;
}
// All of them.
inline Tensor unpacked(Context& context, const Tensor& packed, int64_t m, int64_t k) {
  return unpacked(context, packed, m, k, 0, m);
}

}  // namespace harmonic::cuda
