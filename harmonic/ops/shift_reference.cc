#include "harmonic/ops/reference.h"
#include "harmonic/ops/shift.h"

namespace harmonic::reference {

void run(Context&, const Shift& op) {
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < op.state_in.cols; ++c) {
      double last = op.state_in.row<double>(b)[c];
      for (int64_t r = op.segments.begin(b); r < op.segments.begin(b + 1); ++r) {
        op.y.row<double>(r)[c] = last;
        last = op.x.row<double>(r)[c];
      }
      op.state_out.row<double>(b)[c] = last;
    }
  }
}

void run(Context&, const ShiftBackward& op) {
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < op.dy.cols; ++c) {
      double d = number_or_zero(op.dstate_out, b, c);
      for (int64_t r = op.segments.begin(b + 1); r-- > op.segments.begin(b);) {
        put(op.dx, r, c, d);
        d = op.dy.row<double>(r)[c];
      }
      if (op.dstate_in) op.dstate_in.row<double>(b)[c] = d;
    }
  }
}

}  // namespace harmonic::reference
