#include "harmonic/ops/embedding.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/embedding_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Adds rows to rows of the table, in order; `dy` and `table` stand at their first column of `count`.
void AddRows(int64_t rows, int64_t count, const int32_t* tokens, const float* dy, int64_t dy_stride,
             float* table, int64_t table_stride) {
  const hn::CappedTag<float, 16> d;
  for (int64_t r = 0; r < rows; ++r) {
    float* to = table + tokens[r] * table_stride;
    ForEach(d, count, Out(to), In(to, dy + r * dy_stride),
            [](auto old, auto dyv, auto& sum) HWY_ATTR { sum = hn::Add(old, dyv); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/linear.h"
#include "harmonic/ops/work_items.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(AddRows);

void check_tokens(const int32_t* tokens, int64_t count, int64_t vocabulary) {
  for (int64_t r = 0; r < count; ++r) HARMONIC_ASSERT(tokens[r] >= 0 && tokens[r] < vocabulary);
}

}  // namespace

void run(Context& context, const Embedding& op) {
  const Tensor &table = op.table, &y = op.y;
  HARMONIC_ASSERT(op.tokens.cols == y.rows && table.cols == y.cols);
  if (y.size() == 0) return;
  const int32_t* tokens = op.tokens.as<int32_t>();
  check_tokens(tokens, y.rows, table.rows);
  context.pool.parallel_ranges(y.rows, ceil_div(kElementGrain, y.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (op.packed) {
        unpack_row(op.packed, table.rows, table.cols, tokens[r], y.row<float>(r));
      } else {
        std::memcpy(y.row<float>(r), table.row<float>(tokens[r]),
                    static_cast<size_t>(y.cols) * sizeof(float));
      }
    }
  });
}

void run(Context& context, const EmbeddingBackward& op) {
  const Tensor &dy = op.dy, &dtable = op.dtable;
  HARMONIC_ASSERT(op.tokens.cols == dy.rows && dtable.cols == dy.cols);
  if (dy.size() == 0) return;
  const int32_t* tokens = op.tokens.as<int32_t>();
  check_tokens(tokens, dy.rows, dtable.rows);
  // A thread owns columns, a whole number of cache lines, and walks all rows in order.
  const int64_t grain = round_up(ceil_div(kElementGrain, dy.rows), 16);
  context.pool.parallel_ranges(dy.cols, grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AddRows)
    (dy.rows, end - begin, tokens, dy.as<float>() + begin, dy.stride, dtable.as<float>() + begin,
     dtable.stride);
  });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
