#include "harmonic/ops/causal_pool.h"

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

// The work falls into pieces that do not meet: each closed block, and for each segment what it leaves open.
// Segment b has pieces [blocks.begin(b) + b, blocks.begin(b + 1) + b + 1), the open one last.
template <typename Op, typename Body>
void for_each_piece(Context& context, const Op& op, int64_t channels, const Body& body) {
  const auto first = [&](int64_t b) { return op.blocks.begin(b) + b; };
  const int64_t grain = ceil_div(kCopyGrain, std::max<int64_t>(1, channels * op.ratio));
  context.pool.parallel_ranges(op.blocks.rows() + op.blocks.count, grain, [&](int64_t begin, int64_t end) {
    for_each_segment(op.blocks.count, begin, end, first, [&](int64_t b, int64_t from, int64_t to) {
      const int64_t length = op.segments.length(b);
      for (int64_t j = from - first(b); j < to - first(b); ++j) {
        const int64_t row =
            j * op.ratio - op.phases[b];  // of the segment, the piece's first; maybe before it
        body(b, j, std::max<int64_t>(0, row), std::min(length, row + op.ratio));
      }
    });
  });
}

}  // namespace

void run(Context& context, const CausalPool& op) {
  const int64_t C = op.x.cols;
  const float mean = 1.0f / static_cast<float>(op.ratio);
  for_each_piece(context, op, C, [&](int64_t b, int64_t j, int64_t begin, int64_t end) {
    const bool closed = j < op.blocks.length(b);
    float* sum = closed ? op.y.row<float>(op.blocks.begin(b) + j) : op.state_out.row<float>(b);
    // The rows that came before the segment, then its own in order.
    const float* earlier = j == 0 && op.phases[b] > 0 ? op.state_in.row<float>(b) : nullptr;
    if (earlier == nullptr && begin < end) earlier = op.x.row<float>(op.segments.begin(b) + begin++);
    row_math::put(earlier, false, sum, C);
    for (int64_t t = begin; t < end; ++t)
      row_math::add(sum, op.x.row<float>(op.segments.begin(b) + t), sum, C);
    if (closed) row_math::scale(sum, mean, sum, C);
  });
}

void run(Context& context, const CausalPoolBackward& op) {
  const int64_t C = op.dx ? op.dx.to.cols : op.dstate_in.cols;
  const float mean = 1.0f / static_cast<float>(op.ratio);
  const ArenaScope scope(context.scratch);
  // A closed block's rows all get the same gradient, which needs scaling once: kept for the pieces at hand.
  float* scaled = context.scratch.allocate_array<float>(op.blocks.rows() * C);
  for_each_piece(context, op, C, [&](int64_t b, int64_t j, int64_t begin, int64_t end) {
    const float* gradient = op.dstate_out ? op.dstate_out.row<float>(b) : nullptr;
    if (j < op.blocks.length(b)) {
      float* block = scaled + (op.blocks.begin(b) + j) * C;
      row_math::scale(op.dy.row<float>(op.blocks.begin(b) + j), mean, block, C);
      gradient = block;
    }
    if (op.dx) {
      for (int64_t t = begin; t < end; ++t)
        row_math::put(gradient, op.dx.add, op.dx.to.row<float>(op.segments.begin(b) + t), C);
    }
    if (op.dstate_in && j == 0)
      row_math::put(op.phases[b] > 0 ? gradient : nullptr, false, op.dstate_in.row<float>(b), C);
  });
}

}  // namespace harmonic::cpu
