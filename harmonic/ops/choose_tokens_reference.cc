#include "harmonic/ops/token_chooser.h"

namespace harmonic::reference {

void run(Context&, const ChooseTokens& op) {
  TokenChooser chooser;
  for (int64_t r = 0; r < op.logits.rows; ++r)
    op.tokens.as<int32_t>()[r] = chooser.choose(op.logits.rows_of(r, 1), op.choices[r]);
}

}  // namespace harmonic::reference
