// Matrices of 16-bit numbers, which multiply() takes as they are: rounded once for several products, or never
// written as f32 at all.
#pragma once

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "harmonic/base/half.h"
#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

// Numbers of a 16-bit format as kernels handle them.
struct Bf16 {
  static constexpr DType kType = DType::bf16;
  uint16_t bits;
  __device__ static Bf16 of(float value) { return {bf16_of(value)}; }
  __device__ float value() const { return float_of_bf16(bits); }
};
struct F16 {
  static constexpr DType kType = DType::f16;
  uint16_t bits;
#ifdef __CUDACC__
  __device__ static F16 of(float value) { return {__half_as_ushort(__float2half_rn(value))}; }
  __device__ float value() const { return __half2float(__ushort_as_half(bits)); }
#else
  static F16 of(float value) { return {f16_of_float(value)}; }
  float value() const { return float_of_f16(bits); }
#endif
};
// f32 beside them.
struct F32 {
  static constexpr DType kType = DType::f32;
  float number;
  __device__ static F32 of(float value) { return {value}; }
  __device__ float value() const { return number; }
};

// Uninitialised, rows a multiple of 16 bytes apart, as the matrix units of a card want them.
inline Tensor aligned_scratch(Context& context, int64_t rows, int64_t cols, DType dtype) {
  const int64_t pack = 16 / size_of(dtype);
  Tensor tensor = context.scratch.tensor(rows, (cols + pack - 1) / pack * pack, dtype);
  tensor.cols = cols;
  return tensor;
}

// Writes f32 numbers rounded into the first rows of `to`, which may have more: those are set to zero.
template <typename Number>
void round_into(const Tensor& from, const Tensor& to) {
  HARMONIC_ASSERT(to.dtype == Number::kType && to.cols == from.cols && to.rows >= from.rows);
  auto* numbers = static_cast<Number*>(to.data);
  const Rows rows = rows_of(from);
  const int64_t stride = to.stride, there = from.rows;
  constexpr int kPack = Pack<Number>::kCount, kHalf = Pack<float>::kCount;
  if (lies_in_packs(from) && lies_in_packs(to)) {
    for_each_element(to.rows, to.cols / kPack, [=] __device__(int64_t r, int64_t p) {
      Pack<Number> pack;
      Pack<float> halves[2] = {};
      if (r < there) {
        halves[0] = pack_at(rows[r] + p * kPack);
        halves[1] = pack_at(rows[r] + p * kPack + kHalf);
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.numbers[i] = Number::of(halves[i / kHalf].numbers[i % kHalf]);
      pack_at(numbers + r * stride + p * kPack) = pack;
    });
    return;
  }
  for_each_element(to.rows, to.cols, [=] __device__(int64_t r, int64_t c) {
    numbers[r * stride + c] = Number::of(r < there ? rows[r][c] : 0);
  });
}

// A copy of f32 numbers, rounded.
template <typename Number>
Tensor rounded(Context& context, const Tensor& tensor) {
  const Tensor result = aligned_scratch(context, tensor.rows, tensor.cols, Number::kType);
  round_into<Number>(tensor, result);
  return result;
}
inline Tensor rounded_to_bf16(Context& context, const Tensor& tensor) {
  return rounded<Bf16>(context, tensor);
}

}  // namespace harmonic::cuda
