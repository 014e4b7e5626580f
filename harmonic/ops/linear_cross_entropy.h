// The head and its loss in one op, in chunks of rows, so that all logits never exist together:
//   logits = x W^T,  losses[r] = log sum_v exp(logits[r, v]) - logits[r, targets[r]]     (nats)
// The gradients of loss_scale * sum(losses) are computed in the same pass, since the logits are at hand then.
// On the bf16 backends (backend.h) the operands of the products are rounded: x and weight, the teacher's too,
// and the gradient of the logits for dx and dweight; on a card to f16, and the logits too.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// Another model's logits for the same rows, which the loss is mixed with:
//   losses[r] = (1 - share) cross-entropy + share sum_v p_v log(p_v / q_v),  p the teacher's, q
//   softmax(logits)
struct TeacherLogits {
  Tensor x;          // [R, C'] or null: no teacher
  Tensor weight;     // [V, C']
  double share = 0;  // in [0, 1]
};

struct LinearCrossEntropy {
  Tensor x;               // [R, C]
  Tensor weight;          // [V, C]; without data where `packed` holds it, and no gradients then
  Tensor packed;          // or null: weight packed (PackWeight)
  Tensor targets;         // [1, R] i32 in [0, V), or -1 where there is none: loss and gradient are 0
  Tensor losses;          // [1, R]
  double loss_scale = 1;  // the gradient of each loss
  Tensor dx;              // [R, C] or null: no gradients at all. Overwritten
  Tensor dweight;         // [V, C] or null, +=
  TeacherLogits teacher = {};
};

HARMONIC_DECLARE_OP(LinearCrossEntropy);

}  // namespace harmonic
