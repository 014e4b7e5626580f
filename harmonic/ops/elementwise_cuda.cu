#include "harmonic/ops/elementwise.h"

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

void run(Context&, const Add& op) {
  const Rows a = rows_of(op.a), b = rows_of(op.b), y = rows_of(op.y);
  for_each_four(op.y.rows, op.y.cols, {op.a, op.b, op.y}, [=] __device__(int64_t r, const Columns& columns) {
    Four sum = columns.of(a[r]);
    if (b) {
      const Four other = columns.of(b[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += other[i];
    }
    columns.put(y[r], sum);
  });
}

void run(Context&, const Gate& op) {
  const Rows x = rows_of(op.x), gate = rows_of(op.gate), y = rows_of(op.y);
  const bool is_silu = op.kind == GateKind::silu;
  for_each_four(op.y.rows, op.y.cols, {op.x, op.gate, op.y},
                [=] __device__(int64_t r, const Columns& columns) {
                  const Four in = columns.of(x[r]), g = columns.of(gate[r]);
                  Four out;
#pragma unroll
                  for (int i = 0; i < 4; ++i) out[i] = in[i] * (is_silu ? silu(g[i]) : sigmoid(g[i]));
                  columns.put(y[r], out);
                });
}

void run(Context&, const GateBackward& op) {
  const Rows x = rows_of(op.x), gate = rows_of(op.gate), dy = rows_of(op.dy);
  const GradientRows dx = rows_of(op.dx), dgate = rows_of(op.dgate);
  const bool is_silu = op.kind == GateKind::silu;
  for_each_four(op.x.rows, op.x.cols, {op.x, op.gate, op.dy, op.dx.to, op.dgate.to},
                [=] __device__(int64_t r, const Columns& columns) {
                  const Four in = columns.of(x[r]), g = columns.of(gate[r]), d = columns.of(dy[r]);
                  Four of_x, of_gate;
#pragma unroll
                  for (int i = 0; i < 4; ++i) {
                    const float s = sigmoid(g[i]);
                    of_x[i] = d[i] * (is_silu ? g[i] * s : s);
                    of_gate[i] = d[i] * in[i] * (is_silu ? silu_slope(g[i]) : s * sigmoid(-g[i]));
                  }
                  columns.put(dx, r, of_x);
                  columns.put(dgate, r, of_gate);
                });
}

}  // namespace harmonic::cuda
