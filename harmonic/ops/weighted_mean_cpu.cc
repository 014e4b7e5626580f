#include "harmonic/ops/weighted_mean.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/weighted_mean_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

void Divide(int64_t D, const float* x, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto weight = hn::Set(d, x[D] + static_cast<float>(kWeightEpsilon));
  ForEach(d, D, Out(y), In(x), [weight](auto xv, auto& yv) HWY_ATTR { yv = hn::Div(xv, weight); });
}

void DivideBackward(int64_t D, const float* x, const float* y, const float* dy, float* dx) {
  const hn::CappedTag<float, 16> d;
  const auto weight = hn::Set(d, x[D] + static_cast<float>(kWeightEpsilon));
  dx[D] = -ForEachWithSums<1>(d, D, Out(dx), In(y, dy),
                              [weight](auto yv, auto dyv, auto& dxv, auto& term) HWY_ATTR {
                                dxv = hn::Div(dyv, weight);
                                term = hn::Mul(dxv, yv);
                              })[0];
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(Divide);
HWY_EXPORT(DivideBackward);

// Calls body(row, head) for all of them.
template <typename Body>
void for_each_head(Context& context, const Tensor& means, int64_t heads, const Body& body) {
  if (means.size() == 0) return;
  context.pool.parallel_ranges(means.rows, ceil_div(kElementGrain, means.cols),
                               [&](int64_t begin, int64_t end) {
                                 for (int64_t r = begin; r < end; ++r)
                                   for (int64_t h = 0; h < heads; ++h) body(r, h);
                               });
}

}  // namespace

void run(Context& context, const WeightedMean& op) {
  const int64_t D = op.y.cols / op.heads;
  HARMONIC_ASSERT(op.y.cols % op.heads == 0 && op.x.cols == op.heads * (D + 1) && op.x.rows == op.y.rows);
  for_each_head(context, op.y, op.heads, [&](int64_t r, int64_t h) {
    HWY_DYNAMIC_DISPATCH(Divide)(D, op.x.row<float>(r) + h * (D + 1), op.y.row<float>(r) + h * D);
  });
}

void run(Context& context, const WeightedMeanBackward& op) {
  const int64_t D = op.y.cols / op.heads;
  HARMONIC_ASSERT(same_shape(op.y, op.dy) && same_shape(op.x, op.dx));
  for_each_head(context, op.y, op.heads, [&](int64_t r, int64_t h) {
    HWY_DYNAMIC_DISPATCH(DivideBackward)
    (D, op.x.row<float>(r) + h * (D + 1), op.y.row<float>(r) + h * D, op.dy.row<float>(r) + h * D,
     op.dx.row<float>(r) + h * (D + 1));
  });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
