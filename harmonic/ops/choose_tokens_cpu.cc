#include "harmonic/ops/token_chooser.h"

namespace harmonic::cpu {

void run(Context& context, const ChooseTokens& op) {
  HARMONIC_ASSERT(op.tokens.cols == op.logits.rows && op.logits.cols > 0);
  context.pool.parallel_ranges(op.logits.rows, 1, [&](int64_t begin, int64_t end) {
    thread_local TokenChooser chooser;
    for (int64_t r = begin; r < end; ++r)
      op.tokens.as<int32_t>()[r] = chooser.choose(op.logits.rows_of(r, 1), op.choices[r]);
  });
}

}  // namespace harmonic::cpu
