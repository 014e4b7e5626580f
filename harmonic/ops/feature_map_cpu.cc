#include "harmonic/ops/feature_map.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/feature_map_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include "harmonic/ops/row_products-inl.h"
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// y [2 half] = softmax([u, -u]).
void SoftmaxOfBothSigns(int64_t half, const float* u, float* y) {
  const hn::CappedTag<float, 16> d;
  float* opposite = y + half;
  ForEach(d, half, Out(y, opposite), In(u), [](auto v, auto& a, auto& b) HWY_ATTR {
    a = v;
    b = hn::Neg(v);
  });
  const auto largest = hn::Set(d, MaxOf(d, 2 * half, y));
  const float sum = ForEachWithSums<1>(d, 2 * half, Out(y), In(y), [=](auto v, auto& e, auto& term) HWY_ATTR {
    e = ExpOfNegative(d, hn::Sub(v, largest));
    term = e;
  })[0];
  const auto total = hn::Set(d, sum);
  ForEach(d, 2 * half, Out(y), In(y), [total](auto v, auto& p) HWY_ATTR { p = hn::Div(v, total); });
}

void SoftmaxOfBothSignsBackward(int64_t half, const float* y, const float* dy, float* du) {
  const hn::CappedTag<float, 16> d;
  const auto shared = hn::Set(d, SumOf(d, 2 * half, In(y, dy), [](auto yv, auto dyv, auto& term) HWY_ATTR {
                                term = hn::Mul(yv, dyv);
                              }));
  ForEach(d, half, Out(du), In(y, dy, y + half, dy + half),
          [shared](auto a, auto da, auto b, auto db, auto& result) HWY_ATTR {
            result = hn::Sub(hn::Mul(a, hn::Sub(da, shared)), hn::Mul(b, hn::Sub(db, shared)));
          });
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/matmul_worker.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(MultiplyRows);
HWY_EXPORT(SoftmaxOfBothSigns);
HWY_EXPORT(SoftmaxOfBothSignsBackward);

constexpr int64_t kRows = 128;   // of an item
constexpr int64_t kFewRows = 8;  // that are not worth packing the weight for; the bits are the same

}  // namespace

void run(Context& context, const FeatureMap& op) {
  const int64_t D = op.x.cols / op.heads, half = op.weight.cols, R = op.x.rows;
  HARMONIC_ASSERT(op.x.cols % op.heads == 0 && op.weight.rows == op.x.cols);
  HARMONIC_ASSERT(op.y.rows == R && op.y.cols == op.heads * 2 * half);
  for_each_with_worker(
      context, op.heads * ceil_div(R, kRows), op.y.size(), [&](int64_t i, MatmulWorker& worker) {
        const int64_t h = i % op.heads, begin = i / op.heads * kRows, count = std::min(kRows, R - begin);
        float* u = worker.memory.allocate_array<float>(count * half);
        const float *x = op.x.row<float>(begin) + h * D, *weight = op.weight.row<float>(h * D);
        if (count <= kFewRows) {
          RowProduct products[kFewRows];
          for (int64_t r = 0; r < count; ++r) products[r] = {x + r * op.x.stride, u + r * half, 1};
          HWY_DYNAMIC_DISPATCH(MultiplyRows)(D, half, op.weight.stride, weight, count, products);
        } else {
          worker.multiply(count, half, D, rows_view(x, op.x.stride), rows_view(weight, op.weight.stride), u,
                          half);
        }
        for (int64_t r = 0; r < count; ++r) HWY_DYNAMIC_DISPATCH(SoftmaxOfBothSigns)
        (half, u + r * half, op.y.row<float>(begin + r) + h * 2 * half);
      });
}

// A head's weight has one thread, so that its gradient is summed over rows in order.
void run(Context& context, const FeatureMapBackward& op) {
  const int64_t D = op.x.cols / op.heads, half = op.weight.cols, R = op.x.rows;
  HARMONIC_ASSERT(same_shape(op.y, op.dy) && same_shape(op.weight, op.dweight));
  HARMONIC_ASSERT(!op.dx || same_shape(op.x, op.dx.to));
  for_each_with_worker(context, op.heads, op.y.size(), [&](int64_t h, MatmulWorker& worker) {
    const MatrixView weight = rows_view(op.weight.row<float>(h * D), op.weight.stride);
    float* du = worker.memory.allocate_array<float>(kRows * half);
    for (int64_t begin = 0; begin < R; begin += kRows) {
      const int64_t count = std::min(kRows, R - begin);
      for (int64_t r = 0; r < count; ++r) HWY_DYNAMIC_DISPATCH(SoftmaxOfBothSignsBackward)
      (half, op.y.row<float>(begin + r) + h * 2 * half, op.dy.row<float>(begin + r) + h * 2 * half,
       du + r * half);
      worker.multiply(D, half, count, rows_view(op.x.row<float>(begin) + h * D, op.x.stride).transposed(),
                      rows_view(du, half), op.dweight.row<float>(h * D), op.dweight.stride,
                      MatmulMode::accumulate);
      if (op.dx)
        worker.multiply(count, D, half, rows_view(du, half), weight.transposed(),
                        op.dx.to.row<float>(begin) + h * D, op.dx.to.stride,
                        op.dx.add ? MatmulMode::accumulate : MatmulMode::overwrite);
    }
  });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
