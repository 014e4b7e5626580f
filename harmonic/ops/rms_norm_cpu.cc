#include "harmonic/ops/rms_norm.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/rms_norm_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;

// 1 / sqrt(mean + epsilon), both operations exact.
HWY_INLINE float Rate(float sum_of_squares, int64_t count, double epsilon) {
  const hn::CappedTag<float, 4> d;
  const auto mean = hn::Div(hn::Set(d, sum_of_squares), hn::Set(d, static_cast<float>(count)));
  const auto root = hn::Sqrt(hn::Add(mean, hn::Set(d, static_cast<float>(epsilon))));
  return hn::GetLane(hn::Div(hn::Set(d, 1.0f), root));
}

void Multiply(int64_t count, const float* a, const float* b, float* y) {
  ForEach(Tag(), count, Out(y), In(a, b), [](auto av, auto bv, auto& yv) HWY_ATTR { yv = hn::Mul(av, bv); });
}

// `scale` is weight * gain.
void NormRows(const RmsNorm& op, const float* scale, int64_t begin, int64_t end) {
  const Tag d;
  const int64_t C = op.x.cols;
  for (int64_t r = begin; r < end; ++r) {
    const float* x = op.x.row<float>(r);
    const float squares = SumOf(d, C, In(x), [](auto xv, auto& term) HWY_ATTR { term = hn::Mul(xv, xv); });
    const auto rate = hn::Set(d, Rate(squares, C, op.epsilon));
    ForEach(d, C, Out(op.y.row<float>(r)), In(x, scale),
            [rate](auto xv, auto sv, auto& yv) HWY_ATTR { yv = hn::Mul(hn::Mul(xv, rate), sv); });
  }
}

// With n = x rate, h = dy scale: dx = rate (h - n mean(h n)); the sum over rows of dy n is left in `sums`,
// which dweight and dgain share.
void NormRowsBackward(const RmsNormBackward& op, const float* scale, int64_t begin, int64_t end,
                      float* sums) {
  const Tag d;
  const int64_t C = op.x.cols;
  std::memset(sums, 0, static_cast<size_t>(C) * sizeof(float));
  for (int64_t r = begin; r < end; ++r) {
    const float* x = op.x.row<float>(r);
    const float* dy = op.dy.row<float>(r);
    const auto [squares, product] = ForEachWithSums<2>(
        d, C, Out(), In(x, dy, scale), [](auto xv, auto dyv, auto sv, auto& square, auto& term) HWY_ATTR {
          square = hn::Mul(xv, xv);
          term = hn::Mul(hn::Mul(dyv, sv), xv);
        });
    const auto rate = hn::Set(d, Rate(squares, C, op.epsilon));
    // Powers of the rate are never formed: of huge rows they would vanish.
    const auto mean = hn::Div(hn::Mul(hn::Set(d, product), rate), hn::Set(d, static_cast<float>(C)));
    const auto gradient = [rate, mean](auto xv, auto dyv, auto sv) HWY_ATTR {
      return hn::Mul(rate, hn::NegMulAdd(hn::Mul(xv, rate), mean, hn::Mul(dyv, sv)));
    };
    const auto summed = [rate](auto xv, auto dyv, auto sum)
                            HWY_ATTR { return hn::MulAdd(dyv, hn::Mul(xv, rate), sum); };
    if (!op.dx) {
      ForEach(d, C, Out(sums), In(x, dy, sums),
              [&](auto xv, auto dyv, auto sum, auto& new_sum) HWY_ATTR { new_sum = summed(xv, dyv, sum); });
    } else if (float* dx = op.dx.to.row<float>(r); op.dx.add) {
      ForEach(d, C, Out(dx, sums), In(x, dy, scale, sums, dx),
              [&](auto xv, auto dyv, auto sv, auto sum, auto old, auto& dxv, auto& new_sum) HWY_ATTR {
                dxv = hn::Add(old, gradient(xv, dyv, sv));
                new_sum = summed(xv, dyv, sum);
              });
    } else {
      ForEach(d, C, Out(dx, sums), In(x, dy, scale, sums),
              [&](auto xv, auto dyv, auto sv, auto sum, auto& dxv, auto& new_sum) HWY_ATTR {
                dxv = gradient(xv, dyv, sv);
                new_sum = summed(xv, dyv, sum);
              });
    }
  }
}

// Adds the blocks' sums in order, into the first; then dweight += sums gain, dgain += sums weight.
void AddParameterGradients(const RmsNormBackward& op, float* sums, int64_t blocks) {
  const Tag d;
  const int64_t C = op.x.cols;
  for (int64_t block = 1; block < blocks; ++block)
    ForEach(d, C, Out(sums), In(sums, sums + block * C),
            [](auto sum, auto more, auto& new_sum) HWY_ATTR { new_sum = hn::Add(sum, more); });
  const auto add = [](auto old, auto sum, auto& result) HWY_ATTR { result = hn::Add(old, sum); };
  const auto add_scaled = [](auto old, auto sum, auto factor, auto& result)
                              HWY_ATTR { result = hn::MulAdd(sum, factor, old); };
  float* dweight = op.dweight.as<float>();
  if (op.gain) {
    ForEach(d, C, Out(dweight), In(dweight, sums, op.gain.as<float>()), add_scaled);
  } else {
    ForEach(d, C, Out(dweight), In(dweight, sums), add);
  }
  if (op.dgain) {
    float* dgain = op.dgain.as<float>();
    ForEach(d, C, Out(dgain), In(dgain, sums, op.weight.as<float>()), add_scaled);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/base/float_mode.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(Multiply);
HWY_EXPORT(NormRows);
HWY_EXPORT(NormRowsBackward);
HWY_EXPORT(AddParameterGradients);

constexpr int64_t kBlockRows = 64;  // rows whose gradients of the parameters are summed together

// weight * gain, in scratch where there is a gain.
const float* scale_of(Context& context, const Tensor& weight, const Tensor& gain) {
  if (!gain) return weight.as<float>();
  float* scale = context.scratch.allocate_array<float>(weight.cols);
  HWY_DYNAMIC_DISPATCH(Multiply)(weight.cols, weight.as<float>(), gain.as<float>(), scale);
  return scale;
}

}  // namespace

void run(Context& context, const RmsNorm& op) {
  HARMONIC_ASSERT(same_shape(op.x, op.y) && op.weight.cols == op.x.cols);
  HARMONIC_ASSERT(!op.gain || op.gain.cols == op.x.cols);
  if (op.x.size() == 0) return;
  const FlushToZero mode;
  const ArenaScope scope(context.scratch);
  const float* scale = scale_of(context, op.weight, op.gain);
  context.pool.parallel_ranges(op.x.rows, ceil_div(kElementGrain, op.x.cols),
                               [&](int64_t begin, int64_t end) {
                                 HWY_DYNAMIC_DISPATCH(NormRows)(op, scale, begin, end);
                               });
}

void run(Context& context, const RmsNormBackward& op) {
  const int64_t R = op.x.rows, C = op.x.cols;
  HARMONIC_ASSERT(same_shape(op.x, op.dy) && op.weight.cols == C && op.dweight.cols == C);
  HARMONIC_ASSERT((!op.gain || op.gain.cols == C) && (!op.dgain || op.dgain.cols == C));
  HARMONIC_ASSERT(!op.dx || same_shape(op.x, op.dx.to));
  if (op.x.size() == 0) return;
  const FlushToZero mode;
  const ArenaScope scope(context.scratch);
  const float* scale = scale_of(context, op.weight, op.gain);
  const int64_t blocks = ceil_div(R, kBlockRows);
  float* sums = context.scratch.allocate_array<float>(checked_mul(blocks, C, "sums of gradients"));
  context.pool.parallel_ranges(R, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r += kBlockRows) HWY_DYNAMIC_DISPATCH(NormRowsBackward)
    (op, scale, r, std::min(end, r + kBlockRows), sums + r / kBlockRows * C);
  });
  HWY_DYNAMIC_DISPATCH(AddParameterGradients)(op, sums, blocks);
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
