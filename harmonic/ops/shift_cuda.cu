#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/shift.h"

namespace harmonic::cuda {

void run(Context&, const Shift& op) {
  const Rows x = rows_of(op.x), y = rows_of(op.y), before = rows_of(op.state_in),
             after = rows_of(op.state_out);
  const SegmentRows segments = staged(op.segments);
  const int64_t rows = op.segments.rows(), columns = op.state_in.cols;
  for_each_element(rows + segments.count, columns, [=] __device__(int64_t r, int64_t c) {
    if (r < rows) {
      const int64_t b = segments.of(r);
      y[r][c] = r == segments.begin(b) ? before[b][c] : x[r - 1][c];
    } else {
      const int64_t b = r - rows;
      after[b][c] = segments.length(b) > 0 ? x[segments.begin(b + 1) - 1][c] : before[b][c];
    }
  });
}

void run(Context&, const ShiftBackward& op) {
  const Rows dy = rows_of(op.dy), dafter = rows_of(op.dstate_out), dbefore = rows_of(op.dstate_in);
  const GradientRows dx = rows_of(op.dx);
  const SegmentRows segments = staged(op.segments);
  const int64_t rows = op.segments.rows(), columns = op.dy.cols;
  for_each_element(rows + segments.count, columns, [=] __device__(int64_t r, int64_t c) {
    if (r < rows) {
      const int64_t b = segments.of(r);
      const bool last = r + 1 == segments.begin(b + 1);
      dx.put(r, c, !last ? dy[r + 1][c] : dafter ? dafter[b][c] : 0);
    } else if (dbefore) {
      const int64_t b = r - rows;
      dbefore[b][c] = segments.length(b) > 0 ? dy[segments.begin(b)][c] : dafter ? dafter[b][c] : 0;
    }
  });
}

}  // namespace harmonic::cuda
