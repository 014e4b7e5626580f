#include "harmonic/ops/causal_pool.h"
#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

// A thread sums the rows of one block of one channel: those that are closed, then those left open.
void run(Context&, const CausalPool& op) {
  const Rows x = rows_of(op.x), y = rows_of(op.y), before = rows_of(op.state_in),
             after = rows_of(op.state_out);
  const SegmentRows segments = staged(op.segments), blocks = staged(op.blocks);
  const int64_t* phases = staged(op.phases, op.segments.count);
  const int64_t closed = op.blocks.rows(), columns = op.state_in.cols, ratio = op.ratio;
  for_each_element(closed + segments.count, columns, [=] __device__(int64_t j, int64_t c) {
    const int64_t b = j < closed ? blocks.of(j) : j - closed;
    const int64_t block = j < closed ? j - blocks.begin(b) : blocks.length(b);
    // Rows of the segment, from its own first, that the block has.
    const int64_t from = block * ratio - phases[b], to = from + ratio;
    const int64_t length = segments.length(b), first = segments.begin(b);
    float sum = from < 0 ? before[b][c] : 0;  // the state is that of the segment's first block
    for (int64_t t = from > 0 ? from : 0; t < to && t < length; ++t) sum += x[first + t][c];
    if (j < closed) {
      y[j][c] = sum / static_cast<float>(ratio);
    } else {
      after[b][c] = sum;
    }
  });
}

void run(Context&, const CausalPoolBackward& op) {
  const Rows dy = rows_of(op.dy), dafter = rows_of(op.dstate_out), dbefore = rows_of(op.dstate_in);
  const GradientRows dx = rows_of(op.dx);
  const SegmentRows segments = staged(op.segments), blocks = staged(op.blocks);
  const int64_t* phases = staged(op.phases, op.segments.count);
  const int64_t rows = op.segments.rows(), ratio = op.ratio;
  const int64_t columns = op.dx ? op.dx.to.cols : op.dy.cols;
  for_each_four(rows + segments.count, columns, {op.dy, op.dstate_out, op.dstate_in, op.dx.to},
                [=] __device__(int64_t r, const Columns& fours) {
                  const int64_t b = r < rows ? segments.of(r) : r - rows;
                  const bool open = (phases[b] + segments.length(b)) % ratio > 0;
                  const int64_t block = r < rows ? quotient(phases[b] + r - segments.begin(b), ratio) : 0;
                  Four d = {};
                  if (block < blocks.length(b)) {
                    d = fours.of(dy[blocks.begin(b) + block]);
#pragma unroll
                    for (int i = 0; i < 4; ++i) d[i] /= static_cast<float>(ratio);
                  } else if (open && dafter) {
                    d = fours.of(dafter[b]);
                  }
                  if (r < rows) {
                    fours.put(dx, r, d);
                  } else if (dbefore) {
                    fours.put(dbefore[b], phases[b] > 0 ? d : Four{});
                  }
                });
}

}  // namespace harmonic::cuda
