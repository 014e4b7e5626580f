#include "harmonic/ops/attention.h"
#include "harmonic/ops/row_math.h"

namespace harmonic::cpu {

void run(Context& context, const KeepKeys& op) {
  const int64_t width = op.k.cols, capacity = op.past.cols / (2 * width);
  context.pool.parallel_ranges(op.segments.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* after = op.after.row<float>(b);
      if (op.after.data != op.past.data) row_math::put(op.past.row<float>(b), false, after, op.past.cols);
      for (int64_t t = std::max<int64_t>(0, op.segments.length(b) - capacity); t < op.segments.length(b);
           ++t) {
        float* row = after + (op.positions[b] + t) % capacity * 2 * width;
        std::copy_n(op.k.row<float>(op.segments.begin(b) + t), width, row);
        std::copy_n(op.v.row<float>(op.segments.begin(b) + t), width, row + width);
      }
    }
  });
}

void run(Context& context, const KeepKeysBackward& op) {
  const int64_t width = op.dk.cols, capacity = op.dafter.cols / (2 * width);
  context.pool.parallel_ranges(op.segments.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      // Kept are the last tokens, in rows that follow each other and may wrap; the rest was passed on.
      const int64_t length = op.segments.length(b), kept = std::min(length, capacity);
      const int64_t first = (op.positions[b] + length - kept) % capacity;
      for (int64_t i = 0; i < capacity; ++i) {
        const float* gradient = op.dafter.row<float>(b) + (first + i) % capacity * 2 * width;
        if (i >= kept) {
          row_math::put(gradient, true, op.dpast.row<float>(b) + (first + i) % capacity * 2 * width,
                        2 * width);
          continue;
        }
        const int64_t r = op.segments.begin(b) + length - kept + i;
        row_math::put(gradient, true, op.dk.row<float>(r), width);
        row_math::put(gradient + width, true, op.dv.row<float>(r), width);
      }
    }
  });
}

}  // namespace harmonic::cpu
