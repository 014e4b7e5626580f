// Functions of single numbers, for kernels.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

namespace harmonic::cuda {

__host__ __device__ inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
__host__ __device__ inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// No exponent is ever above 0.
__device__ inline float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}
__device__ inline float silu(float x) { return x * sigmoid(x); }
__device__ inline float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1 + x * (1 - s));
}

// The nearest of those that bf16 holds, ties to even; not a number stays one.
__host__ __device__ inline uint16_t bf16_of(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
__host__ __device__ inline float float_of_bf16(uint16_t half) {
  return float_of(static_cast<uint32_t>(half) << 16);
}

// As the card's own units compute them: within a few units of the last place, and what is below the smallest
// normal number is zero.
__device__ inline float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return exp2f(x);
#endif
}
inline constexpr float kLog2OfE = 1.44269504f;
__device__ inline float fast_exp(float x) { return fast_exp2(x * kLog2OfE); }
__device__ inline float fast_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1 / x;
#endif
}
__device__ inline float fast_root(float x) {
#ifdef __CUDA_ARCH__
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return sqrtf(x);
#endif
}
__device__ inline float fast_sigmoid(float x) {
  const float e = fast_exp(-fabsf(x)), larger = fast_reciprocal(1 + e);
  return x >= 0 ? larger : e * larger;
}

// log(1 + e) of 0 <= e <= 1 is twice the area tangent of e / (2 + e), whose series ends below a unit of the
// last place; nothing branches, so that rows which do not depend on each other are computed together.
__device__ inline float fast_softplus(float x) {
  const float e = fast_exp(-fabsf(x)), t = e * fast_reciprocal(2 + e), tt = t * t;
  float series = 1.0f / 13;
  series = fmaf(series, tt, 1.0f / 11);
  series = fmaf(series, tt, 1.0f / 9);
  series = fmaf(series, tt, 1.0f / 7);
  series = fmaf(series, tt, 1.0f / 5);
  series = fmaf(series, tt, 1.0f / 3);
  series = fmaf(series, tt, 1.0f);
  return fmaxf(x, 0) + 2 * t * series;
}

}  // namespace harmonic::cuda
