#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/elementwise.h"

namespace harmonic::cuda {

void run(Context&, const Add& op) {
  const Rows a = rows_of(op.a), b = rows_of(op.b), y = rows_of(op.y);
  for_each_element(op.y.rows, op.y.cols,
                   [=] __device__(int64_t r, int64_t c) { y[r][c] = a[r][c] + (b ? b[r][c] : 0); });
}

void run(Context&, const Gate& op) {
  const Rows x = rows_of(op.x), gate = rows_of(op.gate), y = rows_of(op.y);
  const bool is_silu = op.kind == GateKind::silu;
  for_each_element(op.y.rows, op.y.cols, [=] __device__(int64_t r, int64_t c) {
    const float g = gate[r][c];
    y[r][c] = x[r][c] * (is_silu ? silu(g) : sigmoid(g));
  });
}

void run(Context&, const GateBackward& op) {
  const Rows x = rows_of(op.x), gate = rows_of(op.gate), dy = rows_of(op.dy);
  const GradientRows dx = rows_of(op.dx), dgate = rows_of(op.dgate);
  const bool is_silu = op.kind == GateKind::silu;
  for_each_element(op.x.rows, op.x.cols, [=] __device__(int64_t r, int64_t c) {
    const float g = gate[r][c], d = dy[r][c], s = sigmoid(g);
    const float slope = is_silu ? silu_slope(g) : s * sigmoid(-g);
    dx.put(r, c, d * (is_silu ? g * s : s));
    dgate.put(r, c, d * x[r][c] * slope);
  });
}

}  // namespace harmonic::cuda
