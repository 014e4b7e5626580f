#include "harmonic/ops/squared_error.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/squared_error_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// The sum of squared differences; writes slope times the differences where `dx` is not null.
float SquaredDistance(int64_t count, const float* x, const float* target, float slope, float* dx) {
  const hn::CappedTag<float, 16> d;
  const auto s = hn::Set(d, slope);
  if (dx == nullptr)
    return SumOf(d, count, In(x, target),
                 [](auto a, auto b, auto& term) HWY_ATTR { term = hn::Mul(hn::Sub(a, b), hn::Sub(a, b)); });
  return ForEachWithSums<1>(d, count, Out(dx), In(x, target),
                            [s](auto a, auto b, auto& gradient, auto& term) HWY_ATTR {
                              const auto difference = hn::Sub(a, b);
                              gradient = hn::Mul(difference, s);
                              term = hn::Mul(difference, difference);
                            })[0];
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(SquaredDistance);

}  // namespace

void run(Context& context, const SquaredError& op) {
  HARMONIC_ASSERT(same_shape(op.x, op.target) && op.losses.cols == op.x.rows);
  HARMONIC_ASSERT(!op.dx || same_shape(op.dx, op.x));
  if (op.x.size() == 0) return;
  const auto scale = static_cast<float>(op.scale);
  const auto slope = static_cast<float>(2 * op.loss_scale * op.scale);
  context.pool.parallel_ranges(
      op.x.rows, ceil_div(kElementGrain, op.x.cols), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          op.losses.as<float>()[r] += scale * HWY_DYNAMIC_DISPATCH(SquaredDistance)(
                                                  op.x.cols, op.x.row<float>(r), op.target.row<float>(r),
                                                  slope, op.dx ? op.dx.row<float>(r) : nullptr);
      });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
