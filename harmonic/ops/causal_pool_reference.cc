#include "harmonic/ops/causal_pool.h"
#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const CausalPool& op) {
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < op.state_in.cols; ++c) {
      int64_t waiting = op.phases[b], block = op.blocks.begin(b);
      double sum = waiting > 0 ? op.state_in.row<double>(b)[c] : 0;
      for (int64_t r = op.segments.begin(b); r < op.segments.begin(b + 1); ++r) {
        sum += op.x.row<double>(r)[c];
        if (++waiting < op.ratio) continue;
        op.y.row<double>(block++)[c] = sum / static_cast<double>(op.ratio);
        sum = 0;
        waiting = 0;
      }
      op.state_out.row<double>(b)[c] = sum;
    }
  }
}

void run(Context&, const CausalPoolBackward& op) {
  const double share = 1 / static_cast<double>(op.ratio);
  const int64_t channels = op.dx ? op.dx.to.cols : op.dy.cols;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < channels; ++c) {
      // The gradient of each row that goes into block i of this segment: closed, or left open.
      const int64_t closed = op.blocks.length(b);
      const bool open = (op.phases[b] + op.segments.length(b)) % op.ratio > 0;
      const auto of_block = [&](int64_t i) {
        if (i < closed) return op.dy.row<double>(op.blocks.begin(b) + i)[c] * share;
        return open ? number_or_zero(op.dstate_out, b, c) : 0.0;
      };
      for (int64_t t = 0; t < op.segments.length(b); ++t)
        put(op.dx, op.segments.begin(b) + t, c, of_block((op.phases[b] + t) / op.ratio));
      if (op.dstate_in) op.dstate_in.row<double>(b)[c] = op.phases[b] > 0 ? of_block(0) : 0;
    }
  }
}

}  // namespace harmonic::reference
