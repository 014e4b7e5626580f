// What the reference kernels share.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "harmonic/ops/op.h"

namespace harmonic::reference {

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }
inline double silu_slope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

// Puts one number of a gradient where it is wanted.
inline void put(const Gradient& gradient, int64_t row, int64_t column, double value) {
  if (!gradient) return;
  double& to = gradient.to.row<double>(row)[column];
  to = gradient.add ? to + value : value;
}

// The nearest number of bf16, ties to even. Numbers of a narrow format are single-precision by definition.
inline double rounded_to_bf16(double value) {
  if (!std::isfinite(value)) return value;
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  const uint32_t half = 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<float>((bits + half) & 0xffff0000u);
}

// A number as an operand of a matrix product.
inline double operand(const Context& context, double value) {
  return context.precision == Precision::bf16 ? rounded_to_bf16(value) : value;
}

// A number of a tensor that may be null, which stands for zero.
inline double number_or_zero(const Tensor& tensor, int64_t row, int64_t column) {
  return tensor ? tensor.row<double>(row)[column] : 0;
}

// A number of a weight, or of its packed form, which is a copy, where there is one.
inline double weight_at(const Tensor& weight, const Tensor& packed, int64_t row, int64_t column) {
  return packed ? packed.as<double>()[row * weight.cols + column] : weight.row<double>(row)[column];
}

}  // namespace harmonic::reference
