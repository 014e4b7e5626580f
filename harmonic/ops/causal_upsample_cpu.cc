#include "harmonic/ops/causal_upsample.h"

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

// Where segment b's held rows begin.
int64_t held_begin(const Segments& blocks, int64_t b) { return blocks.begin(b) + b; }

// Calls body(b, row) for each held row, row 0 being the one held from before.
template <typename Body>
void for_each_held(Context& context, const Segments& blocks, int64_t grain, const Body& body) {
  const auto first = [&](int64_t b) { return held_begin(blocks, b); };
  context.pool.parallel_ranges(blocks.rows() + blocks.count, grain, [&](int64_t begin, int64_t end) {
    for_each_segment(blocks.count, begin, end, first, [&](int64_t b, int64_t from, int64_t to) {
      for (int64_t h = from; h < to; ++h) body(b, h - first(b));
    });
  });
}

int64_t grain_of(int64_t elements) { return ceil_div(kCopyGrain, std::max<int64_t>(1, elements)); }

}  // namespace

void run(Context& context, const HoldBlocks& op) {
  const int64_t C = op.y.cols;
  const Segments& blocks = op.blocks;
  for_each_held(context, blocks, grain_of(C), [&](int64_t b, int64_t row) {
    const float* from = row > 0       ? op.x.row<float>(blocks.begin(b) + row - 1)
                        : op.fresh[b] ? op.start.row<float>(0)
                                      : op.state_in.row<float>(b);
    std::copy_n(from, C, op.y.row<float>(held_begin(blocks, b) + row));
    if (row == blocks.length(b))
      row_math::put(row == 0 && op.fresh[b] ? nullptr : from, false, op.state_out.row<float>(b), C);
  });
}

void run(Context& context, const HoldBlocksBackward& op) {
  const int64_t C = op.dy.cols;
  const Segments& blocks = op.blocks;
  for_each_held(context, blocks, grain_of(C), [&](int64_t b, int64_t row) {
    const float* gradient = op.dy.row<float>(held_begin(blocks, b) + row);
    float* to;
    bool add = false;
    if (row > 0) {
      if (!op.dx) return;
      to = op.dx.to.row<float>(blocks.begin(b) + row - 1);
      add = op.dx.add;
    } else {
      if (!op.dstate_in) return;
      to = op.dstate_in.row<float>(b);
    }
    const bool fresh = row == 0 && op.fresh[b];
    row_math::put(fresh ? nullptr : gradient, add, to, C);
    if (row == blocks.length(b) && !fresh && op.dstate_out)
      row_math::add(to, op.dstate_out.row<float>(b), to, C);
  });
  if (op.dstart) {
    for (int64_t b = 0; b < blocks.count; ++b) {
      if (op.fresh[b])
        row_math::put(op.dy.row<float>(held_begin(blocks, b)), true, op.dstart.row<float>(0), C);
    }
  }
}

void run(Context& context, const CausalUpsample& op) {
  const int64_t C = op.y.cols;
  const auto first = [&](int64_t b) { return op.segments.begin(b); };
  context.pool.parallel_ranges(op.segments.rows(), grain_of(C), [&](int64_t begin, int64_t end) {
    for_each_segment(op.segments.count, begin, end, first, [&](int64_t b, int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        const int64_t row = (op.phases[b] + r - first(b) + 1) / op.stride;
        const float* held = op.held.row<float>(held_begin(op.blocks, b) + row);
        if (op.base) {
          row_math::add(op.base.row<float>(r), held, op.y.row<float>(r), C);
        } else {
          std::copy_n(held, C, op.y.row<float>(r));
        }
      }
    });
  });
}

void run(Context& context, const CausalUpsampleBackward& op) {
  if (!op.dheld) return;
  const int64_t C = op.dy.cols;
  const int64_t grain = grain_of(C * op.stride);
  for_each_held(context, op.blocks, grain, [&](int64_t b, int64_t row) {
    // The tokens that read this row.
    const int64_t token = row * op.stride - op.phases[b] - 1;
    const int64_t begin = op.segments.begin(b) + std::max<int64_t>(0, token);
    const int64_t end = op.segments.begin(b) + std::min(op.segments.length(b), token + op.stride);
    float* to = op.dheld.to.row<float>(held_begin(op.blocks, b) + row);
    if (begin >= end) row_math::put(nullptr, op.dheld.add, to, C);
    for (int64_t r = begin; r < end; ++r)
      row_math::put(op.dy.row<float>(r), op.dheld.add || r > begin, to, C);
  });
}

// By the ops that it stands for: so a row has the same bits whether it comes alone or with others.
void run(Context& context, const ReadHeld& op) {
  const ArenaScope scope(context.scratch);
  const int64_t count = op.blocks.count, rows = op.blocks.rows() + count, C = op.state_out.cols;
  const Tensor held = context.scratch.tensor(rows, C, DType::f32);
  const Tensor normed = context.scratch.tensor(rows, C, DType::f32);
  run(context, HoldBlocks{op.x, op.blocks, op.fresh, op.start, op.state_in, held, op.state_out});
  run(context, RmsNorm{held, op.weight, op.gain, normed, op.epsilon});
  // As of blocks of two tokens, whose second closes them.
  auto* phases = context.scratch.allocate_array<int64_t>(count);
  for (int64_t b = 0; b < count; ++b) phases[b] = op.blocks.length(b);
  run(context, CausalUpsample{normed, op.segments, op.blocks, phases, 2, op.base, op.y});
}

}  // namespace harmonic::cpu
