// What a pass over a piece of a batch is to make smaller: the loss of the text itself, or a distance from a
// teacher (convert/distillation.h).
#pragma once

#include "harmonic/model/model.h"

namespace harmonic {

// One pass: its rows, and the states before and after with their gradients. Activations belong in `memory`,
// which the caller rewinds.
struct ObjectivePass {
  const Model& model;
  Context& context;
  Arena& memory;
  GradientPool& gradients;
  Segments segments;
  StateRows in, out, d_out, d_in;
  Tensor tokens, targets;  // [1, R] i32; a target below 0 is none
  Tensor losses;           // [1, R]
  double loss_scale;       // the gradient of each loss
};

class Objective {
 public:
  virtual ~Objective() = default;
  // Writes the losses, in nats or whatever it measures, the states after, and d_in; adds to the gradients of
  // the model's parameters.
  virtual void run(const ObjectivePass& pass) const = 0;
  // Whether a text may be seen in pieces that hand their states on.
  virtual bool takes_pieces() const = 0;
  // Tokens that it takes of a text at most; 0 is as many as the model does.
  virtual int64_t longest_text() const { return 0; }
};

// The cross-entropy of the targets, which is what training is without a teacher.
const Objective& text_objective();

}  // namespace harmonic
