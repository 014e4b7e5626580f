// Matrices of bf16 numbers, which multiply() takes as they are when products are computed in bf16: rounded
// once for several products, or never written as f32 at all.
#pragma once

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

// Uninitialised, rows a multiple of 16 bytes apart, as the matrix units of a card want them.
inline Tensor bf16_scratch(Context& context, int64_t rows, int64_t cols) {
  Tensor tensor = context.scratch.tensor(rows, (cols + 7) / 8 * 8, DType::bf16);
  tensor.cols = cols;
  return tensor;
}

// A copy of f32 numbers, rounded.
inline Tensor rounded_to_bf16(Context& context, const Tensor& tensor) {
  const Tensor result = bf16_scratch(context, tensor.rows, tensor.cols);
  auto* to = static_cast<uint16_t*>(result.data);
  const Rows from = rows_of(tensor);
  const int64_t cols = tensor.cols, stride = result.stride;
  for_each(tensor.size(), [=] __device__(int64_t i) {
    const int64_t r = i / cols, c = i % cols;
    to[r * stride + c] = bf16_of(from[r][c]);
  });
  return result;
}

}  // namespace harmonic::cuda
