// y[r] = table[tokens[r]].
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct Embedding {
  Tensor tokens;  // [1, R] i32, each in [0, V); of a device: in its memory, read when the op is done
  Tensor table;   // [V, C]; without data where `packed` holds it
  Tensor packed;  // or null: the table's packed form (linear.h), which is read
  Tensor y;       // [R, C]
};

struct EmbeddingBackward {
  Tensor tokens;
  Tensor dy;      // [R, C]
  Tensor dtable;  // [V, C], +=, rows in order
};

HARMONIC_DECLARE_OP(Embedding);
HARMONIC_DECLARE_OP(EmbeddingBackward);

}  // namespace harmonic
