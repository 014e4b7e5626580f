#include "harmonic/ops/shift.h"

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {

void run(Context& context, const Shift& op) {
  const int64_t C = op.x.cols;
  const Segments& segments = op.segments;
  const auto first = [&](int64_t b) { return segments.begin(b); };
  context.pool.parallel_ranges(
      segments.rows(), ceil_div(kCopyGrain, std::max<int64_t>(1, C)), [&](int64_t begin, int64_t end) {
        for_each_segment(segments.count, begin, end, first, [&](int64_t b, int64_t from, int64_t to) {
          for (int64_t r = from; r < to; ++r)
            std::copy_n(r == first(b) ? op.state_in.row<float>(b) : op.x.row<float>(r - 1), C,
                        op.y.row<float>(r));
        });
      });
  for (int64_t b = 0; b < segments.count; ++b) {
    const float* last =
        segments.length(b) > 0 ? op.x.row<float>(first(b + 1) - 1) : op.state_in.row<float>(b);
    std::copy_n(last, C, op.state_out.row<float>(b));
  }
}

void run(Context& context, const ShiftBackward& op) {
  const int64_t C = op.dy.cols;
  const Segments& segments = op.segments;
  const auto first = [&](int64_t b) { return segments.begin(b); };
  const auto from_state = [&](int64_t b) { return op.dstate_out ? op.dstate_out.row<float>(b) : nullptr; };
  if (op.dx) {
    context.pool.parallel_ranges(
        segments.rows(), ceil_div(kCopyGrain, std::max<int64_t>(1, C)), [&](int64_t begin, int64_t end) {
          for_each_segment(segments.count, begin, end, first, [&](int64_t b, int64_t from, int64_t to) {
            for (int64_t r = from; r < to; ++r) {
              const float* reader = r + 1 < first(b + 1) ? op.dy.row<float>(r + 1) : from_state(b);
              row_math::put(reader, op.dx.add, op.dx.to.row<float>(r), C);
            }
          });
        });
  }
  if (op.dstate_in) {
    for (int64_t b = 0; b < segments.count; ++b)
      row_math::put(segments.length(b) > 0 ? op.dy.row<float>(first(b)) : from_state(b), false,
                    op.dstate_in.row<float>(b), C);
  }
}

}  // namespace harmonic::cpu
