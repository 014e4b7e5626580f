#include "harmonic/ops/elementwise.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/elementwise_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void AddRun(int64_t count, const float* a, const float* b, float* y) {
  if (b == nullptr) {
    std::memcpy(y, a, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(y), In(a, b), [](auto av, auto bv, auto& yv) HWY_ATTR { yv = hn::Add(av, bv); });
}

void GateRun(GateKind kind, int64_t count, const float* x, const float* gate, float* y) {
  const hn::CappedTag<float, 16> d;
  if (kind == GateKind::silu) {
    ForEach(d, count, Out(y), In(x, gate),
            [d](auto xv, auto gv, auto& yv) HWY_ATTR { yv = hn::Mul(xv, Silu(d, gv)); });
  } else {
    ForEach(d, count, Out(y), In(x, gate),
            [d](auto xv, auto gv, auto& yv) HWY_ATTR { yv = hn::Mul(xv, Sigmoid(d, gv)); });
  }
}

// dx = dy act(gate), dgate = dy x act'(gate), where sigmoid' = s (1 - s) and silu' = s (1 + gate (1 - s)).
template <bool kSilu>
void GateGradients(int64_t count, const float* x, const float* gate, const float* dy, float* dx,
                   float* dgate) {
  const hn::CappedTag<float, 16> d;
  const auto compute = [d](auto xv, auto gv, auto dyv, auto& dxv, auto& dgv) HWY_ATTR {
    const auto one = hn::Set(d, 1.0f);
    hn::Vec<decltype(d)> s, rest;  // s and 1 - s
    Sigmoids(d, gv, s, rest);
    const auto dyx = hn::Mul(dyv, xv);
    if constexpr (kSilu) {
      dxv = hn::Mul(dyv, hn::Mul(gv, s));
      dgv = hn::Mul(dyx, hn::Mul(s, hn::MulAdd(gv, rest, one)));
    } else {
      dxv = hn::Mul(dyv, s);
      dgv = hn::Mul(dyx, hn::Mul(s, rest));
    }
  };
  ForEach(d, count, Out(dx, dgate), In(x, gate, dy), compute);
}

// dx and dgate may each be null, or added to.
void GateBackwardRun(GateKind kind, int64_t count, const float* x, const float* gate, const float* dy,
                     float* dx, bool add_dx, float* dgate, bool add_dgate) {
  constexpr int64_t kBlock = 1024;
  HWY_ALIGN float dx_block[kBlock];
  HWY_ALIGN float dgate_block[kBlock];
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t n = std::min(kBlock, count - i);
    float* const dx_out = dx != nullptr && !add_dx ? dx + i : dx_block;
    float* const dgate_out = dgate != nullptr && !add_dgate ? dgate + i : dgate_block;
    const auto gradients = kind == GateKind::silu ? GateGradients<true> : GateGradients<false>;
    gradients(n, x + i, gate + i, dy + i, dx_out, dgate_out);
    if (dx != nullptr && add_dx) AddRun(n, dx + i, dx_block, dx + i);
    if (dgate != nullptr && add_dgate) AddRun(n, dgate + i, dgate_block, dgate + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(AddRun);
HWY_EXPORT(GateRun);
HWY_EXPORT(GateBackwardRun);

float* at(const Tensor& tensor, int64_t row, int64_t column) {
  return tensor ? tensor.row<float>(row) + column : nullptr;
}

}  // namespace

void run(Context& context, const Add& op) {
  const Tensor &a = op.a, &b = op.b, &y = op.y;
  HARMONIC_ASSERT((!b || same_shape(a, b)) && same_shape(a, y));
  const bool contiguous = a.contiguous() && (!b || b.contiguous()) && y.contiguous();
  parallel_elements(context.pool, a.rows, a.cols, contiguous, [&](int64_t row, int64_t column, int64_t n) {
    if (b) {
      HWY_DYNAMIC_DISPATCH(AddRun)(n, at(a, row, column), at(b, row, column), at(y, row, column));
    } else {
      std::memcpy(at(y, row, column), at(a, row, column), static_cast<size_t>(n) * sizeof(float));
    }
  });
}

void run(Context& context, const Gate& op) {
  const Tensor &x = op.x, &gate = op.gate, &y = op.y;
  HARMONIC_ASSERT(same_shape(x, gate) && same_shape(x, y));
  const bool contiguous = x.contiguous() && gate.contiguous() && y.contiguous();
  parallel_elements(context.pool, x.rows, x.cols, contiguous, [&](int64_t row, int64_t column, int64_t n) {
    HWY_DYNAMIC_DISPATCH(GateRun)(op.kind, n, at(x, row, column), at(gate, row, column), at(y, row, column));
  });
}

void run(Context& context, const GateBackward& op) {
  const Tensor &x = op.x, &gate = op.gate, &dy = op.dy, &dx = op.dx.to, &dgate = op.dgate.to;
  HARMONIC_ASSERT(same_shape(x, gate) && same_shape(x, dy));
  HARMONIC_ASSERT((!dx || same_shape(x, dx)) && (!dgate || same_shape(x, dgate)));
  const bool contiguous = x.contiguous() && gate.contiguous() && dy.contiguous() &&
                          (!dx || dx.contiguous()) && (!dgate || dgate.contiguous());
  parallel_elements(context.pool, x.rows, x.cols, contiguous, [&](int64_t row, int64_t column, int64_t n) {
    HWY_DYNAMIC_DISPATCH(GateBackwardRun)
    (op.kind, n, at(x, row, column), at(gate, row, column), at(dy, row, column), at(dx, row, column),
     op.dx.add, at(dgate, row, column), op.dgate.add);
  });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
