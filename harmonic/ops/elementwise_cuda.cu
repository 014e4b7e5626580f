#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/elementwise.h"

namespace harmonic::cuda {
namespace {

struct alignas(16) Four {
  float number[4];
};
// Whether all numbers lie together, and from a multiple of 16 bytes on.
bool is_of_fours(const Tensor& tensor) {
  return !tensor || (tensor.contiguous() && tensor.size() % 4 == 0 &&
                     reinterpret_cast<uintptr_t>(tensor.data) % sizeof(Four) == 0);
}

void add_fours(const Rows& a, const Rows& b, const Rows& y, int64_t count) {
  const auto* first = reinterpret_cast<const Four*>(a.data);
  const auto* second = reinterpret_cast<const Four*>(b.data);
  auto* sum = reinterpret_cast<Four*>(y.data);
  for_each(count, [=] __device__(int64_t i) {
    Four numbers = first[i];
    const Four others = second ? second[i] : Four{};
#pragma unroll
    for (int k = 0; k < 4; ++k) numbers.number[k] += others.number[k];
    sum[i] = numbers;
  });
}

}  // namespace

void run(Context&, const Add& op) {
  const Rows a = rows_of(op.a), b = rows_of(op.b), y = rows_of(op.y);
  const int64_t columns = op.y.cols;
  if (is_of_fours(op.a) && is_of_fours(op.b) && is_of_fours(op.y)) return add_fours(a, b, y, op.y.size() / 4);
  for_each(op.y.size(), [=] __device__(int64_t i) {
    const int64_t r = i / columns, c = i % columns;
    y[r][c] = a[r][c] + (b ? b[r][c] : 0);
  });
}

void run(Context&, const Gate& op) {
  const Rows x = rows_of(op.x), gate = rows_of(op.gate), y = rows_of(op.y);
  const int64_t columns = op.y.cols;
  const bool is_silu = op.kind == GateKind::silu;
  for_each(op.y.size(), [=] __device__(int64_t i) {
    const int64_t r = i / columns, c = i % columns;
    const float g = gate[r][c];
    y[r][c] = x[r][c] * (is_silu ? silu(g) : sigmoid(g));
  });
}

void run(Context&, const GateBackward& op) {
  const Rows x = rows_of(op.x), gate = rows_of(op.gate), dy = rows_of(op.dy);
  const GradientRows dx = rows_of(op.dx), dgate = rows_of(op.dgate);
  const int64_t columns = op.x.cols;
  const bool is_silu = op.kind == GateKind::silu;
  for_each(op.x.size(), [=] __device__(int64_t i) {
    const int64_t r = i / columns, c = i % columns;
    const float g = gate[r][c], d = dy[r][c], s = sigmoid(g);
    const float slope = is_silu ? silu_slope(g) : s * sigmoid(-g);
    dx.put(r, c, d * (is_silu ? g * s : s));
    dgate.put(r, c, d * x[r][c] * slope);
  });
}

}  // namespace harmonic::cuda
