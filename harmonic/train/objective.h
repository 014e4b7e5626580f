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

// What a loss is counted in.
enum class LossUnit : uint8_t {
  nats,   // of a target, which are bits of the text's bytes too
  other,  // a ratio of squares, a divergence: no bits of the text
};

class Objective {
 public:
  virtual ~Objective() = default;
  // Writes the losses, the states after, and d_in; adds to the gradients of the model's parameters. Several
  // threads may call it at once, each with a pass of its own.
  virtual void run(const ObjectivePass& pass) const = 0;
  virtual LossUnit unit() const { return LossUnit::nats; }
  // Whether the losses depend on a parameter. One of which they do not is left as it is: without a gradient
  // it would only decay.
  virtual bool reaches(const Parameter&) const { return true; }
  // Whether a text may be seen in pieces that hand their states on.
  virtual bool takes_pieces() const = 0;
  // Tokens that it takes of a text at most; 0 is as many as the model does.
  virtual int64_t longest_text() const { return 0; }
};

// The cross-entropy of the targets, which is what training is without a teacher.
const Objective& text_objective();

}  // namespace harmonic
