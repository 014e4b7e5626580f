#include "harmonic/ops/linear_cross_entropy.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/linear_cross_entropy_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Rows of `count` logits become losses and, where `gradients` is set, their own gradients in place:
// scale (softmax - onehot). A row without a target has loss and gradients 0.
void LossRows(int64_t rows, int64_t count, float* logits, const int32_t* targets, float* losses,
              bool gradients, float scale) {
  const hn::CappedTag<float, 16> d;
  const hn::CappedTag<float, 4> d4;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = logits + r * count;
    if (targets[r] < 0) {
      losses[r] = 0;
      if (gradients) std::memset(row, 0, static_cast<size_t>(count) * sizeof(float));
      continue;
    }
    const float largest_value = MaxOf(d, count, row);
    const float below_largest = largest_value - row[targets[r]];
    const auto largest = hn::Set(d, largest_value);
    float sum;
    if (!gradients) {
      sum =
          SumOf(d, count, In(row), [=](auto x, auto& term) HWY_ATTR { term = Exp(d, hn::Sub(x, largest)); });
    } else {
      sum = ForEachWithSums<1>(d, count, Out(row), In(row), [=](auto x, auto& e, auto& term) HWY_ATTR {
        e = Exp(d, hn::Sub(x, largest));
        term = e;
      })[0];
      const auto factor = hn::Div(hn::Set(d, scale), hn::Set(d, sum));
      ForEach(d, count, Out(row), In(row), [=](auto e, auto& p) HWY_ATTR { p = hn::Mul(e, factor); });
      row[targets[r]] -= scale;
    }
    losses[r] = hn::GetLane(Log(d4, hn::Set(d4, sum))) + below_largest;
  }
}

// The same, mixed with the divergence from a teacher's logits, which become its probabilities.
void MixedLossRows(int64_t rows, int64_t count, float* logits, float* teacher, float share,
                   const int32_t* targets, float* losses, bool gradients, float scale) {
  const hn::CappedTag<float, 16> d;
  const hn::CappedTag<float, 4> d4;
  const auto log_of = [&](float sum) { return hn::GetLane(Log(d4, hn::Set(d4, sum))); };
  for (int64_t r = 0; r < rows; ++r) {
    float* row = logits + r * count;
    float* p = teacher + r * count;
    if (targets[r] < 0) {
      losses[r] = 0;
      if (gradients) std::memset(row, 0, static_cast<size_t>(count) * sizeof(float));
      continue;
    }
    const float largest = MaxOf(d, count, row), teacher_largest = MaxOf(d, count, p);
    const auto m = hn::Set(d, largest), n = hn::Set(d, teacher_largest);
    // Of the student: the sum of exponentials. Of the teacher: the same, and the sum of p times the
    // difference of both logits.
    const float sum =
        SumOf(d, count, In(row), [=](auto x, auto& term) HWY_ATTR { term = Exp(d, hn::Sub(x, m)); });
    const auto [teacher_sum, difference] = ForEachWithSums<2>(
        d, count, Out(p), In(p, row), [=](auto t, auto x, auto& e, auto& term, auto& product) HWY_ATTR {
          const auto below = hn::Sub(t, n);
          e = Exp(d, below);
          term = e;
          product = hn::Mul(e, hn::Sub(below, hn::Sub(x, m)));
        });
    const float log_sum = log_of(sum);
    const float entropy = log_sum + (largest - row[targets[r]]);
    const float divergence = difference / teacher_sum - log_of(teacher_sum) + log_sum;
    losses[r] = (1.0f - share) * entropy + share * divergence;
    if (!gradients) continue;
    const auto factor = hn::Div(hn::Set(d, scale), hn::Set(d, sum));
    const auto teacher_factor = hn::Div(hn::Set(d, scale * share), hn::Set(d, teacher_sum));
    ForEach(d, count, Out(row), In(row, p), [=](auto x, auto e, auto& gradient) HWY_ATTR {
      gradient = hn::Sub(hn::Mul(Exp(d, hn::Sub(x, m)), factor), hn::Mul(e, teacher_factor));
    });
    row[targets[r]] -= scale * (1.0f - share);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/base/checked.h"
#include "harmonic/ops/linear.h"
#include "harmonic/ops/matmul.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(LossRows);
HWY_EXPORT(MixedLossRows);

// The rows of a chunk: as many as keep its logits at 4 MB, but enough that reading the weight and adding to
// its gradient once a chunk stays cheap beside computing. A multiple of 32, as products in bf16 want a part
// of the rows that dweight sums over (matmul.h). No bit depends on it.
int64_t chunk_rows(int64_t vocabulary) {
  return std::clamp<int64_t>((1 << 20) / vocabulary, 256, 4096) / 32 * 32;
}

constexpr int64_t kPackedForGradient = 4 << 20;  // floats: a larger weight is not copied for dx as well
constexpr int64_t kLossGrain = 2048;             // logits that are worth a thread

}  // namespace

void run(Context& context, const LinearCrossEntropy& op) {
  const Tensor &x = op.x, &weight = op.weight, &dx = op.dx, &dweight = op.dweight;
  const int64_t R = x.rows, C = x.cols, V = weight.rows;
  HARMONIC_ASSERT(weight.cols == C && V > 0 && op.targets.cols == R && op.losses.cols == R);
  const TeacherLogits& teacher = op.teacher;
  HARMONIC_ASSERT(!teacher.x ||
                  (teacher.x.rows == R && teacher.weight.rows == V && teacher.weight.cols == teacher.x.cols));
  HARMONIC_ASSERT(!op.packed || op.packed.cols == packed_weight_size(V, C, op.packed.dtype));
  HARMONIC_ASSERT((!dx || same_shape(dx, x)) && (!dweight || same_shape(dweight, weight)));
  const int32_t* targets = op.targets.as<int32_t>();
  for (int64_t r = 0; r < R; ++r) HARMONIC_ASSERT(targets[r] >= -1 && targets[r] < V);
  if (R == 0) return;

  const ArenaScope scope(context.scratch);
  const bool gradients = static_cast<bool>(dx);
  const int64_t most = std::min(R, chunk_rows(V));
  float* logits = context.scratch.allocate_array<float>(checked_mul(most, V, "logits"));
  float* teacher_logits =
      teacher.x ? context.scratch.allocate_array<float>(checked_mul(most, V, "logits")) : nullptr;
  const MatrixView weight_view = {weight.as<float>(), weight.stride, 1};

  // With several chunks the weight is packed once for all of them, for the logits and for dx.
  PackedMatrix for_logits, for_dx;
  const auto pack = [&](int64_t k, int64_t n, MatrixView b) {
    return pack_matrix(context.pool, k, n, b, context.scratch.allocate_array<float>(packed_size(k, n)),
                       context.precision);
  };
  if (op.packed) {
    for_logits = {op.packed.data, C, V, op.packed.dtype};
  } else if (R > most) {
    for_logits = pack(C, V, weight_view.transposed());
  }
  if (gradients && R > most && weight.size() <= kPackedForGradient) for_dx = pack(V, C, weight_view);
  const auto multiply = [&](int64_t rows, int64_t n, int64_t k, MatrixView a, MatrixView b,
                            const PackedMatrix& packed, float* c, int64_t ldc) {
    if (packed.data != nullptr) {
      matmul_packed(context.pool, context.scratch, rows, a, packed, c, ldc, MatmulMode::overwrite, nullptr,
                    context.precision);
    } else {
      matmul(context.pool, context.scratch, rows, n, k, a, b, c, ldc, MatmulMode::overwrite, nullptr,
             context.precision);
    }
  };

  for (int64_t begin = 0; begin < R; begin += most) {
    const int64_t rows = std::min(most, R - begin);
    const MatrixView x_view = {x.row<float>(begin), x.stride, 1}, logits_view = {logits, V, 1};
    multiply(rows, V, C, x_view, weight_view.transposed(), for_logits, logits, V);
    if (teacher.x)
      matmul(context.pool, context.scratch, rows, V, teacher.x.cols,
             {teacher.x.row<float>(begin), teacher.x.stride, 1},
             {teacher.weight.as<float>(), 1, teacher.weight.stride}, teacher_logits, V, MatmulMode::overwrite,
             nullptr, context.precision);
    context.pool.parallel_ranges(rows, ceil_div(kLossGrain, V), [&](int64_t first, int64_t last) {
      if (teacher.x) {
        HWY_DYNAMIC_DISPATCH(MixedLossRows)
        (last - first, V, logits + first * V, teacher_logits + first * V, static_cast<float>(teacher.share),
         targets + begin + first, op.losses.as<float>() + begin + first, gradients,
         static_cast<float>(op.loss_scale));
        return;
      }
      HWY_DYNAMIC_DISPATCH(LossRows)
      (last - first, V, logits + first * V, targets + begin + first, op.losses.as<float>() + begin + first,
       gradients, static_cast<float>(op.loss_scale));
    });
    if (!gradients) continue;
    multiply(rows, C, V, logits_view, weight_view, for_dx, dx.row<float>(begin), dx.stride);
    if (dweight)
      matmul(context.pool, context.scratch, V, C, rows, logits_view.transposed(), x_view, dweight.as<float>(),
             dweight.stride, MatmulMode::accumulate, nullptr, context.precision);
  }
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
