// Ops on single elements: sums and gates.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// y = a + b, or a copy of a where b is null. y may be a or b.
struct Add {
  Tensor a, b, y;  // [R, C]
};

// y = x act(gate), where act is the sigmoid (a gated combination) or SiLU (SwiGLU, Shazeer, arXiv
// 2002.05202).
enum class GateKind : uint8_t { sigmoid, silu };
struct Gate {
  Tensor x, gate, y;  // [R, C]
  GateKind kind = GateKind::sigmoid;
};
struct GateBackward {
  Tensor x, gate, dy;  // [R, C]
  GateKind kind = GateKind::sigmoid;
  Gradient dx, dgate;  // [R, C]
};

HARMONIC_DECLARE_OP(Add);
HARMONIC_DECLARE_OP(Gate);
HARMONIC_DECLARE_OP(GateBackward);

}  // namespace harmonic
