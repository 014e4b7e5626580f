#include "harmonic/ops/optimizer.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/optimizer_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

// The numbers of an update, rounded once from double; declared before every target's kernels.
#ifndef HARMONIC_OPS_OPTIMIZER_CPU_NUMBERS_
#define HARMONIC_OPS_OPTIMIZER_CPU_NUMBERS_
namespace harmonic {

struct AdamWNumbers {
  float gradient_scale, beta1, rest1, beta2, rest2;  // rest = 1 - beta
  float decay;                                       // 1 - lr weight_decay
  float rate;                                        // lr / (1 - beta1^step)
  float correction;                                  // 1 / (1 - beta2^step)
  float epsilon;
};

}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The sum of squares in double: element i goes to partial i % 16, in order, whatever the vector width.
double SquaresOf(int64_t count, const float* x) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  constexpr int64_t kLanes = hn::MaxLanes(d), kVectors = 16 / kLanes;
  hn::Vec<decltype(d)> partials[kVectors];
  for (auto& partial : partials) partial = hn::Zero(d);
  const auto add_group = [&](const float* group) HWY_ATTR {
    for (int64_t v = 0; v < kVectors; ++v) {
      const auto value = hn::PromoteTo(d, hn::LoadU(df, group + v * kLanes));
      partials[v] = hn::MulAdd(value, value, partials[v]);  // the square is exact
    }
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) add_group(x + i);
  if (i < count) {
    HWY_ALIGN float padded[16] = {};
    std::memcpy(padded, x + i, static_cast<size_t>(count - i) * sizeof(float));
    add_group(padded);
  }
  HWY_ALIGN double p[16];
  for (int64_t v = 0; v < kVectors; ++v) hn::Store(partials[v], d, p + v * kLanes);
  for (int64_t width = 8; width > 0; width /= 2)
    for (int64_t lane = 0; lane < width; ++lane) p[lane] += p[lane + width];
  return p[0];
}

void AdamWRun(const AdamWNumbers& numbers, int64_t count, float* value, float* grad, float* m, float* v) {
  const hn::CappedTag<float, 16> d;
  const auto set = [d](float x) HWY_ATTR { return hn::Set(d, x); };
  const auto gradient_scale = set(numbers.gradient_scale), decay = set(numbers.decay);
  const auto beta1 = set(numbers.beta1), rest1 = set(numbers.rest1);
  const auto beta2 = set(numbers.beta2), rest2 = set(numbers.rest2);
  const auto rate = set(numbers.rate), correction = set(numbers.correction);
  const auto epsilon = set(numbers.epsilon), zero = hn::Zero(d);
  ForEach(d, count, Out(value, grad, m, v), In(value, grad, m, v),
          [=](auto value_v, auto grad_v, auto m_v, auto v_v, auto& new_value, auto& new_grad, auto& new_m,
              auto& new_v) HWY_ATTR {
            const auto g = hn::Mul(grad_v, gradient_scale);
            new_m = hn::MulAdd(beta1, m_v, hn::Mul(rest1, g));
            new_v = hn::MulAdd(beta2, v_v, hn::Mul(hn::Mul(rest2, g), g));
            const auto root = hn::Sqrt(hn::Mul(new_v, correction));
            const auto update = hn::Div(hn::Mul(rate, new_m), hn::Add(root, epsilon));
            new_value = hn::MulSub(value_v, decay, update);
            new_grad = zero;
          });
}

// m = momentum m + g, direction = g + momentum m; the gradient is set to zero.
void MomentumRun(float gradient_scale, float momentum, int64_t count, float* grad, float* m,
                 float* direction) {
  const hn::CappedTag<float, 16> d;
  const auto scale = hn::Set(d, gradient_scale), factor = hn::Set(d, momentum), zero = hn::Zero(d);
  ForEach(d, count, Out(grad, m, direction), In(grad, m),
          [=](auto grad_v, auto m_v, auto& new_grad, auto& new_m, auto& direction_v) HWY_ATTR {
            const auto g = hn::Mul(grad_v, scale);
            new_m = hn::MulAdd(factor, m_v, g);
            direction_v = hn::MulAdd(factor, new_m, g);
            new_grad = zero;
          });
}

// y = a x + b z; y may be x or z.
void BlendRun(int64_t count, float a, const float* x, float b, const float* z, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto av = hn::Set(d, a), bv = hn::Set(d, b);
  ForEach(d, count, Out(y), In(x, z),
          [av, bv](auto xv, auto zv, auto& yv) HWY_ATTR { yv = hn::MulAdd(av, xv, hn::Mul(bv, zv)); });
}

void ScaleRun(int64_t count, float scale, float* x) {
  const hn::CappedTag<float, 16> d;
  const auto factor = hn::Set(d, scale);
  ForEach(d, count, Out(x), In(x), [factor](auto xv, auto& yv) HWY_ATTR { yv = hn::Mul(xv, factor); });
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cmath>

#include "harmonic/base/float_mode.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(SquaresOf);
HWY_EXPORT(AdamWRun);
HWY_EXPORT(MomentumRun);
HWY_EXPORT(BlendRun);
HWY_EXPORT(ScaleRun);

// Elements that are summed together. A matrix with gaps between its rows has blocks of its own in each row.
constexpr int64_t kSumBlock = 4096;

double sum_of_squares(Context& context, const Tensor& x) {
  const int64_t rows = x.contiguous() ? 1 : x.rows, cols = x.contiguous() ? x.size() : x.cols;
  const int64_t blocks = ceil_div(cols, kSumBlock);
  const ArenaScope scope(context.scratch);
  double* sums = context.scratch.allocate_array<double>(checked_mul(rows, blocks, "sums of squares"));
  const int64_t grain = std::max<int64_t>(1, 4 * kSumBlock / std::max<int64_t>(1, std::min(cols, kSumBlock)));
  context.pool.parallel_ranges(rows * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i % blocks * kSumBlock;
      sums[i] = HWY_DYNAMIC_DISPATCH(SquaresOf)(std::min(kSumBlock, cols - column),
                                                x.row<float>(i / blocks) + column);
    }
  });
  double result = 0;
  for (int64_t i = 0; i < rows * blocks; ++i) result += sums[i];
  return result;
}

// base^exponent by squaring: the mathematics library's pow may differ between processors.
double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base *= base)
    if (exponent % 2 != 0) result *= base;
  return result;
}

// Newton-Schulz on the contiguous matrix x: singular values of x / ||x|| come near 1. Returns where the
// result stands, x or other. The Gram matrix is taken on the shorter side: with R <= C it is x x^T and stands
// on the left of products, otherwise x^T x on the right.
const float* orthogonalize(Context& context, int64_t R, int64_t C, float* x, float* other) {
  constexpr int kSteps = 5;
  constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
  ThreadPool& pool = context.pool;
  const bool wide = R <= C;
  const int64_t side = std::min(R, C);
  const int64_t size = checked_mul(side, side, "Gram matrix");
  float* gram = context.scratch.allocate_array<float>(size);
  float* polynomial = context.scratch.allocate_array<float>(size);
  for (int step = 0; step < kSteps; ++step) {
    const MatrixView view = {x, C, 1}, gram_view = {gram, side, 1}, polynomial_view = {polynomial, side, 1};
    if (wide) {
      matmul(pool, context.scratch, R, R, C, view, view.transposed(), gram, side);
    } else {
      matmul(pool, context.scratch, C, C, R, view.transposed(), view, gram, side);
    }
    matmul(pool, context.scratch, side, side, side, gram_view, gram_view, polynomial, side);
    parallel_elements(pool, side, side, true, [&](int64_t, int64_t i, int64_t n) {
      HWY_DYNAMIC_DISPATCH(BlendRun)(n, kC, polynomial + i, kB, gram + i, polynomial + i);
    });
    for (int64_t i = 0; i < side; ++i) polynomial[i * side + i] += kA;
    if (wide) {
      matmul(pool, context.scratch, R, C, R, polynomial_view, view, other, C);
    } else {
      matmul(pool, context.scratch, R, C, C, view, polynomial_view, other, C);
    }
    std::swap(x, other);
  }
  return x;
}

}  // namespace

void run(Context& context, const SumsOfSquares& op) {
  const FlushToZero mode;
  for (int64_t i = 0; i < op.count; ++i) op.results[i] = sum_of_squares(context, op.tensors[i]);
}

void run(Context& context, const AdamW& op) {
  const Tensor &value = op.value, &grad = op.grad, &m = op.m, &v = op.v;
  HARMONIC_ASSERT(same_shape(value, grad) && same_shape(value, m) && same_shape(value, v) && op.step >= 1);
  const AdamWNumbers numbers = {
      static_cast<float>(op.gradient_scale),
      static_cast<float>(op.beta1),
      static_cast<float>(1 - op.beta1),
      static_cast<float>(op.beta2),
      static_cast<float>(1 - op.beta2),
      static_cast<float>(1 - op.lr * op.weight_decay),
      static_cast<float>(op.lr / (1 - power(op.beta1, op.step))),
      static_cast<float>(1 / (1 - power(op.beta2, op.step))),
      static_cast<float>(op.epsilon),
  };
  const bool contiguous = value.contiguous() && grad.contiguous() && m.contiguous() && v.contiguous();
  parallel_elements(context.pool, value.rows, value.cols, contiguous,
                    [&](int64_t row, int64_t column, int64_t n) {
                      HWY_DYNAMIC_DISPATCH(AdamWRun)
                      (numbers, n, value.row<float>(row) + column, grad.row<float>(row) + column,
                       m.row<float>(row) + column, v.row<float>(row) + column);
                    });
}

namespace {

void update(Context& context, const Muon& op, const MuonMatrix& matrix) {
  const auto& [value, grad, m] = matrix;
  const int64_t R = value.rows, C = value.cols;
  HARMONIC_ASSERT(same_shape(value, grad) && same_shape(value, m));
  if (value.size() == 0) return;
  const FlushToZero mode;
  const ArenaScope scope(context.scratch);
  const Tensor direction = context.scratch.tensor(R, C, DType::f32);
  float* x = direction.as<float>();
  float* other = context.scratch.allocate_array<float>(R * C);

  parallel_elements(
      context.pool, R, C, grad.contiguous() && m.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
        HWY_DYNAMIC_DISPATCH(MomentumRun)
        (static_cast<float>(op.gradient_scale), static_cast<float>(op.momentum), n,
         grad.row<float>(row) + column, m.row<float>(row) + column, direction.row<float>(row) + column);
      });
  const double norm = std::sqrt(sum_of_squares(context, direction));
  const float scale = norm > 0 ? static_cast<float>(1 / norm) : 0.0f;  // a matrix of zeros stays one
  parallel_elements(context.pool, R, C, true, [&](int64_t, int64_t i, int64_t n) {
    HWY_DYNAMIC_DISPATCH(ScaleRun)(n, scale, x + i);
  });
  const float* direction_of = orthogonalize(context, R, C, x, other);

  const double ratio = static_cast<double>(R) / static_cast<double>(C);
  const auto decay = static_cast<float>(1 - op.lr * op.weight_decay);
  const auto rate = static_cast<float>(-op.lr * std::sqrt(std::max(1.0, ratio)));
  parallel_elements(context.pool, R, C, value.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    float* to = value.row<float>(row) + column;
    HWY_DYNAMIC_DISPATCH(BlendRun)(n, decay, to, rate, direction_of + row * C + column, to);
  });
}

}  // namespace

void run(Context& context, const Muon& op) {
  for (int64_t i = 0; i < op.count; ++i) update(context, op, op.matrices[i]);
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
