#include "harmonic/ops/row_math.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/row_math.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

void AddRow(const float* a, const float* b, float* y, int64_t count) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(y), In(a, b), [](auto av, auto bv, auto& yv) HWY_ATTR { yv = hn::Add(av, bv); });
}

void ScaleRow(const float* x, float factor, float* y, int64_t count) {
  const hn::CappedTag<float, 16> d;
  const auto f = hn::Set(d, factor);
  ForEach(d, count, Out(y), In(x), [f](auto xv, auto& yv) HWY_ATTR { yv = hn::Mul(xv, f); });
}

void AddScaledRow(const float* x, float factor, const float* z, float* y, int64_t count) {
  const hn::CappedTag<float, 16> d;
  const auto f = hn::Set(d, factor);
  ForEach(d, count, Out(y), In(x, z),
          [f](auto xv, auto zv, auto& yv) HWY_ATTR { yv = hn::MulAdd(f, zv, xv); });
}

float DotRows(const float* a, const float* b, int64_t count) {
  return DotProduct(hn::CappedTag<float, 16>(), count, a, b);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic {
namespace {

HWY_EXPORT(AddRow);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(AddScaledRow);
HWY_EXPORT(DotRows);

}  // namespace

namespace row_math {

void add(const float* a, const float* b, float* y, int64_t count) {
  HWY_DYNAMIC_DISPATCH(AddRow)(a, b, y, count);
}

void scale(const float* x, float factor, float* y, int64_t count) {
  HWY_DYNAMIC_DISPATCH(ScaleRow)(x, factor, y, count);
}

void add_scaled(const float* x, float factor, const float* z, float* y, int64_t count) {
  HWY_DYNAMIC_DISPATCH(AddScaledRow)(x, factor, z, y, count);
}

float dot(const float* a, const float* b, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(DotRows)(a, b, count);
}

void put(const float* x, bool add_to, float* y, int64_t count) {
  if (add_to) {
    if (x != nullptr) add(y, x, y, count);
  } else if (x != nullptr) {
    std::copy_n(x, count, y);
  } else {
    std::fill_n(y, count, 0.0f);
  }
}

}  // namespace row_math
}  // namespace harmonic
#endif  // HWY_ONCE
