#include "harmonic/ops/causal_upsample.h"
#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

void run(Context&, const HoldBlocks& op) {
  const Rows x = rows_of(op.x), y = rows_of(op.y), start = rows_of(op.start);
  const Rows before = rows_of(op.state_in), after = rows_of(op.state_out);
  const SegmentRows blocks = staged(op.blocks);
  const uint8_t* fresh = staged(op.fresh, op.blocks.count);
  const int64_t rows = op.blocks.rows(), columns = op.y.cols;
  for_each_element(rows + blocks.count, columns, [=] __device__(int64_t j, int64_t c) {
    if (j < rows) {
      y[j + blocks.of(j) + 1][c] = x[j][c];
      return;
    }
    const int64_t b = j - rows;
    const float held = fresh[b] ? start[0][c] : before[b][c];
    y[blocks.begin(b) + b][c] = held;
    after[b][c] = blocks.length(b) > 0 ? x[blocks.begin(b + 1) - 1][c] : fresh[b] ? 0 : held;
  });
}

void run(Context&, const HoldBlocksBackward& op) {
  const Rows dy = rows_of(op.dy), dafter = rows_of(op.dstate_out), dbefore = rows_of(op.dstate_in);
  const Rows dstart = rows_of(op.dstart);
  const GradientRows dx = rows_of(op.dx);
  const SegmentRows blocks = staged(op.blocks);
  const uint8_t* fresh = staged(op.fresh, op.blocks.count);
  const int64_t rows = op.blocks.rows(), columns = op.dy.cols;
  // What comes back to the row that a segment held at first.
  const auto d_held = [=] __device__(int64_t b, int64_t c) {
    const bool passed_on = blocks.length(b) == 0 && !fresh[b] && dafter;
    return dy[blocks.begin(b) + b][c] + (passed_on ? dafter[b][c] : 0);
  };
  for_each_element(rows + blocks.count, columns, [=] __device__(int64_t j, int64_t c) {
    if (j < rows) {
      const int64_t b = blocks.of(j);
      const bool last = j + 1 == blocks.begin(b + 1);
      dx.put(j, c, dy[j + b + 1][c] + (last && dafter ? dafter[b][c] : 0));
    } else if (dbefore) {
      const int64_t b = j - rows;
      dbefore[b][c] = fresh[b] ? 0 : d_held(b, c);
    }
  });
  for_each(columns, [=] __device__(int64_t c) {
    float sum = dstart[0][c];
    for (int64_t b = 0; b < blocks.count; ++b)
      if (fresh[b]) sum += d_held(b, c);
    dstart[0][c] = sum;
  });
}

void run(Context&, const CausalUpsample& op) {
  const Rows held = rows_of(op.held), base = rows_of(op.base), y = rows_of(op.y);
  const SegmentRows segments = staged(op.segments), blocks = staged(op.blocks);
  const int64_t* phases = staged(op.phases, op.segments.count);
  const int64_t stride = op.stride;
  for_each_four(
      op.y.rows, op.y.cols, {op.held, op.base, op.y}, [=] __device__(int64_t r, const Columns& columns) {
        const int64_t b = segments.of(r);
        const int64_t from = blocks.begin(b) + b + quotient(phases[b] + r - segments.begin(b) + 1, stride);
        Four sum = columns.of(held[from]);
        if (base) {
          const Four other = columns.of(base[r]);
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i] += other[i];
        }
        columns.put(y[r], sum);
      });
}

void run(Context&, const CausalUpsampleBackward& op) {
  if (!op.dheld) return;
  const Rows dy = rows_of(op.dy);
  const GradientRows dheld = rows_of(op.dheld);
  const SegmentRows segments = staged(op.segments), blocks = staged(op.blocks);
  const int64_t* phases = staged(op.phases, op.segments.count);
  const int64_t columns = op.dheld.to.cols, stride = op.stride;
  for_each_element(op.dheld.to.rows, columns, [=] __device__(int64_t row, int64_t c) {
    // Segment b owns rows [blocks.begin(b) + b, blocks.begin(b + 1) + b + 1).
    int64_t low = 0, high = blocks.count;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (blocks.begin(middle) + middle <= row) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const int64_t b = low, block = row - blocks.begin(b) - b;
    const int64_t from = block * stride - phases[b] - 1, length = segments.length(b);
    float sum = 0;
    for (int64_t t = from > 0 ? from : 0; t < from + stride && t < length; ++t)
      sum += dy[segments.begin(b) + t][c];
    dheld.put(row, c, sum);
  });
}

namespace {

// A block for each text.
template <int kThreads>
void read_held(const ReadHeld& op) {
  const Rows x = rows_of(op.x), start = rows_of(op.start), weight = rows_of(op.weight),
             gain = rows_of(op.gain);
  const Rows before = rows_of(op.state_in), after = rows_of(op.state_out), base = rows_of(op.base),
             y = rows_of(op.y);
  const SegmentRows segments = staged(op.segments), blocks = staged(op.blocks);
  const uint8_t* fresh = staged(op.fresh, op.blocks.count);
  const int64_t columns = op.state_out.cols;
  const auto epsilon = static_cast<float>(op.epsilon);
  const bool packed =
      all_in_packs({op.x, op.start, op.weight, op.gain, op.state_in, op.state_out, op.base, op.y});
  const auto bring = [=] __device__() {
    prefetch_row(weight[0], columns);
    prefetch_row(gain[0], columns);
    prefetch_row(start[0], columns);
  };
  launch_early<kThreads>({segments.count}, kThreads / kWarpSize * 4, bring, [=] __device__() {
    const int64_t b = blockIdx.x;
    const bool closes = blocks.length(b) > 0, has_none = !closes && fresh[b];
    const float* held = closes ? x[blocks.begin(b)] : has_none ? start[0] : before[b];
    const auto for_share = [&](auto f) {
      for (int64_t first = 4 * threadIdx.x; first < columns; first += 4 * kThreads)
        f(Columns{first, columns - first < 4 ? static_cast<int>(columns - first) : 4, packed});
    };
    float squares = 0;
    for_share([&](const Columns& share) {
      const Four in = share.of(held);
#pragma unroll
      for (int i = 0; i < 4; ++i) squares += in[i] * in[i];
      share.put(after[b], has_none ? Four{} : in);
    });
    const float mean = block_sum(squares, dynamic_shared<float>()) / static_cast<float>(columns);
    if (segments.length(b) == 0) return;
    const int64_t r = segments.begin(b);
    const float scale = 1 / sqrtf(mean + epsilon);
    for_share([&](const Columns& share) {
      Four sum = share.of(base[r]);
      const Four in = share.of(held), w = share.of(weight[0]), more = share.of(gain[0]);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += in[i] * (scale * w[i]) * more[i];
      share.put(y[r], sum);
    });
  });
}

}  // namespace

void run(Context&, const ReadHeld& op) { op.y.cols > 512 ? read_held<512>(op) : read_held<128>(op); }

}  // namespace harmonic::cuda
