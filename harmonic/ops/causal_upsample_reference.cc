#include "harmonic/ops/causal_upsample.h"
#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const HoldBlocks& op) {
  for (int64_t b = 0; b < op.blocks.count; ++b) {
    const int64_t first = op.blocks.begin(b) + b, closed = op.blocks.length(b);
    for (int64_t c = 0; c < op.y.cols; ++c) {
      const double held = op.fresh[b] ? op.start.as<double>()[c] : op.state_in.row<double>(b)[c];
      op.y.row<double>(first)[c] = held;
      for (int64_t i = 0; i < closed; ++i)
        op.y.row<double>(first + 1 + i)[c] = op.x.row<double>(op.blocks.begin(b) + i)[c];
      op.state_out.row<double>(b)[c] = closed > 0    ? op.x.row<double>(op.blocks.begin(b + 1) - 1)[c]
                                       : op.fresh[b] ? 0
                                                     : held;
    }
  }
}

void run(Context&, const HoldBlocksBackward& op) {
  for (int64_t b = 0; b < op.blocks.count; ++b) {
    const int64_t first = op.blocks.begin(b) + b, closed = op.blocks.length(b);
    for (int64_t c = 0; c < op.dy.cols; ++c) {
      const bool leaves = closed > 0 || !op.fresh[b];  // something is held after the segment
      const double d_last = leaves ? number_or_zero(op.dstate_out, b, c) : 0;
      for (int64_t i = 0; i < closed; ++i)
        put(op.dx, op.blocks.begin(b) + i, c,
            op.dy.row<double>(first + 1 + i)[c] + (i + 1 == closed ? d_last : 0));
      const double d_held = op.dy.row<double>(first)[c] + (closed == 0 ? d_last : 0);
      if (op.fresh[b]) op.dstart.as<double>()[c] += d_held;
      if (op.dstate_in) op.dstate_in.row<double>(b)[c] = op.fresh[b] ? 0 : d_held;
    }
  }
}

void run(Context&, const CausalUpsample& op) {
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t t = 0; t < op.segments.length(b); ++t) {
      const int64_t r = op.segments.begin(b) + t;
      const int64_t held = op.blocks.begin(b) + b + (op.phases[b] + t + 1) / op.stride;
      for (int64_t c = 0; c < op.y.cols; ++c)
        op.y.row<double>(r)[c] = number_or_zero(op.base, r, c) + op.held.row<double>(held)[c];
    }
  }
}

void run(Context&, const CausalUpsampleBackward& op) {
  if (!op.dheld) return;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < op.dheld.to.cols; ++c) {
      for (int64_t i = 0; i <= op.blocks.length(b); ++i) {
        double sum = 0;
        for (int64_t t = 0; t < op.segments.length(b); ++t)
          if ((op.phases[b] + t + 1) / op.stride == i) sum += op.dy.row<double>(op.segments.begin(b) + t)[c];
        put(op.dheld, op.blocks.begin(b) + b + i, c, sum);
      }
    }
  }
}

void run(Context&, const ReadHeld& op) {
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const bool closes = op.blocks.length(b) > 0;
    const double* held = closes        ? op.x.row<double>(op.blocks.begin(b))
                         : op.fresh[b] ? op.start.row<double>(0)
                                       : op.state_in.row<double>(b);
    double squares = 0;
    for (int64_t c = 0; c < op.state_out.cols; ++c) squares += held[c] * held[c];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(op.state_out.cols) + op.epsilon);
    for (int64_t c = 0; c < op.state_out.cols; ++c) {
      if (op.segments.length(b) > 0) {
        const int64_t r = op.segments.begin(b);
        op.y.row<double>(r)[c] =
            op.base.row<double>(r)[c] + held[c] * scale * op.weight.as<double>()[c] * op.gain.as<double>()[c];
      }
      op.state_out.row<double>(b)[c] = closes || !op.fresh[b] ? held[c] : 0;
    }
  }
}

}  // namespace harmonic::reference
