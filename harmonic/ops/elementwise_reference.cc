#include "harmonic/ops/elementwise.h"
#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const Add& op) {
  for (int64_t r = 0; r < op.y.rows; ++r)
    for (int64_t c = 0; c < op.y.cols; ++c)
      op.y.row<double>(r)[c] = op.a.row<double>(r)[c] + number_or_zero(op.b, r, c);
}

void run(Context&, const Gate& op) {
  for (int64_t r = 0; r < op.y.rows; ++r) {
    for (int64_t c = 0; c < op.y.cols; ++c) {
      const double gate = op.gate.row<double>(r)[c];
      op.y.row<double>(r)[c] =
          op.x.row<double>(r)[c] * (op.kind == GateKind::silu ? silu(gate) : sigmoid(gate));
    }
  }
}

void run(Context&, const GateBackward& op) {
  for (int64_t r = 0; r < op.x.rows; ++r) {
    for (int64_t c = 0; c < op.x.cols; ++c) {
      const double gate = op.gate.row<double>(r)[c], dy = op.dy.row<double>(r)[c];
      const double value = op.kind == GateKind::silu ? silu(gate) : sigmoid(gate);
      const double slope = op.kind == GateKind::silu ? silu_slope(gate) : sigmoid(gate) * sigmoid(-gate);
      put(op.dx, r, c, dy * value);
      put(op.dgate, r, c, dy * op.x.row<double>(r)[c] * slope);
    }
  }
}

}  // namespace harmonic::reference
