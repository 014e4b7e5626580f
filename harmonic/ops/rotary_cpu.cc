#include "harmonic/ops/rotary.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/rotary_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// One head of one row: x and y have 2 * half numbers.
void RotateHead(const float* x, const float* cosines, const float* sines, int64_t half, bool inverse,
                float* y) {
  const hn::CappedTag<float, 16> d;
  if (inverse) {
    ForEach(d, half, Out(y, y + half), In(x, x + half, cosines, sines),
            [](auto a, auto b, auto c, auto s, auto& first, auto& second) HWY_ATTR {
              first = hn::MulAdd(b, s, hn::Mul(a, c));
              second = hn::NegMulAdd(a, s, hn::Mul(b, c));
            });
  } else {
    ForEach(d, half, Out(y, y + half), In(x, x + half, cosines, sines),
            [](auto a, auto b, auto c, auto s, auto& first, auto& second) HWY_ATTR {
              first = hn::NegMulAdd(b, s, hn::Mul(a, c));
              second = hn::MulAdd(a, s, hn::Mul(b, c));
            });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <numbers>

#include "harmonic/base/portable_math.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(RotateHead);

constexpr double kTurn = 6.28318530717958647692;

}  // namespace

void run(Context& context, const RotaryTable& op) {
  const int64_t half = op.y.cols / 2;
  HARMONIC_ASSERT(op.y.cols == 2 * half && op.y.rows == op.segments.rows());
  context.pool.parallel_ranges(op.y.rows, 64, [&](int64_t begin, int64_t end) {
    for_each_segment(
        op.segments.count, begin, end, [&](int64_t b) { return op.segments.begin(b); },
        [&](int64_t b, int64_t from, int64_t to) {
          for (int64_t r = from; r < to; ++r) {
            const int64_t index = op.positions[b] + r - op.segments.begin(b);
            const auto position = static_cast<double>(index);
            // What the exponent of a frequency loses from one to the next.
            const double fall =
                op.context > 0 && index >= op.context
                    ? 2.0 / static_cast<double>(2 * half - 2) * std::numbers::log2e *
                          portable::log(op.growth * (position + 1) / static_cast<double>(op.context) -
                                        (op.growth - 1))
                    : 0.0;
            float* row = op.y.row<float>(r);
            for (int64_t i = 0; i < half; ++i) {
              double sine = 0, cosine = 0;
              const double stretch = fall == 0 ? 1.0 : portable::exp2(-fall * static_cast<double>(i));
              portable::sin_cos_turns(position * op.frequencies[i] * stretch / kTurn, sine, cosine);
              row[i] = static_cast<float>(op.scale * cosine);
              row[half + i] = static_cast<float>(op.scale * sine);
            }
          }
        });
  });
}

void run(Context& context, const Rotate& op) {
  const int64_t D = op.table.cols, half = D / 2;
  HARMONIC_ASSERT(same_shape(op.x, op.y) && op.table.rows == op.x.rows && op.x.cols % D == 0);
  if (op.x.size() == 0) return;
  context.pool.parallel_ranges(op.x.rows, ceil_div(kElementGrain, op.x.cols),
                               [&](int64_t begin, int64_t end) {
                                 for (int64_t r = begin; r < end; ++r)
                                   for (int64_t c = 0; c < op.x.cols; c += D) HWY_DYNAMIC_DISPATCH(RotateHead)
                                 (op.x.row<float>(r) + c, op.table.row<float>(r),
                                  op.table.row<float>(r) + half, half, op.inverse, op.y.row<float>(r) + c);
                               });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
