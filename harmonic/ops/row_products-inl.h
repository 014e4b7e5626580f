// Products of a few rows with a matrix [K, columns] as it lies in memory, its rows `stride` apart: each
// number is one chain of fused multiply-adds over k in order, then times the gain.
#include <cmath>
#include <cstdint>

#include "harmonic/ops/row_product.h"

// clang-format off
#if defined(HARMONIC_OPS_ROW_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_ROW_PRODUCTS_INL_H_
#undef HARMONIC_OPS_ROW_PRODUCTS_INL_H_
#else
#define HARMONIC_OPS_ROW_PRODUCTS_INL_H_
#endif
// clang-format on

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// kCount products at once, kGroups groups of 16 columns: what is read of the matrix serves all of them, and
// enough sums are under way.
template <int64_t kCount, int64_t kGroups>
HWY_INLINE void MultiplyGroups(int64_t K, int64_t stride, const float* matrix, int64_t column,
                               const RowProduct* products) {
  const hn::CappedTag<float, 16> d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  constexpr int64_t kVectors = kGroups * 16 / kLanes;
  hn::Vec<decltype(d)> sums[kCount][kVectors];
#pragma GCC unroll 3
  for (int64_t i = 0; i < kCount; ++i)
#pragma GCC unroll 5
    for (int64_t v = 0; v < kVectors; ++v) sums[i][v] = hn::Zero(d);
  for (int64_t k = 0; k < K; ++k) {
    hn::Vec<decltype(d)> row[kVectors];
#pragma GCC unroll 5
    for (int64_t v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, matrix + k * stride + column + v * kLanes);
#pragma GCC unroll 3
    for (int64_t i = 0; i < kCount; ++i) {
      const auto x = hn::Set(d, products[i].row[k]);
#pragma GCC unroll 5
      for (int64_t v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(x, row[v], sums[i][v]);
    }
  }
#pragma GCC unroll 3
  for (int64_t i = 0; i < kCount; ++i)
#pragma GCC unroll 5
    for (int64_t v = 0; v < kVectors; ++v)
      hn::StoreU(hn::Mul(sums[i][v], hn::Set(d, products[i].gain)), d, products[i].y + column + v * kLanes);
}

template <int64_t kCount>
void MultiplyRowsAtOnce(int64_t K, int64_t columns, int64_t stride, const float* matrix,
                        const RowProduct* products) {
  constexpr int64_t kLanes = hn::MaxLanes(hn::CappedTag<float, 16>());
  constexpr int64_t kGroups = kLanes == 16 ? 5 : kLanes == 8 ? 2 : 1;  // as many as the registers hold
  int64_t column = 0;
  for (; column + kGroups * 16 <= columns; column += kGroups * 16)
    MultiplyGroups<kCount, kGroups>(K, stride, matrix, column, products);
  if constexpr (kGroups == 5) {
    if (column + 64 <= columns) {
      MultiplyGroups<kCount, 4>(K, stride, matrix, column, products);
      column += 64;
    }
  }
  for (; column + 16 <= columns; column += 16) MultiplyGroups<kCount, 1>(K, stride, matrix, column, products);
  for (; column < columns; ++column) {
    float sums[kCount] = {};
    for (int64_t k = 0; k < K; ++k)
      for (int64_t i = 0; i < kCount; ++i)
        sums[i] = std::fma(products[i].row[k], matrix[k * stride + column], sums[i]);
    for (int64_t i = 0; i < kCount; ++i) products[i].y[column] = sums[i] * products[i].gain;
  }
}

// No y may overlap the matrix or a row.
inline void MultiplyRows(int64_t K, int64_t columns, int64_t stride, const float* matrix, int64_t count,
                         const RowProduct* products) {
  for (; count >= 3; count -= 3, products += 3) MultiplyRowsAtOnce<3>(K, columns, stride, matrix, products);
  if (count == 2) MultiplyRowsAtOnce<2>(K, columns, stride, matrix, products);
  if (count == 1) MultiplyRowsAtOnce<1>(K, columns, stride, matrix, products);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
