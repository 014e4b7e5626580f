#include "harmonic/train/objective.h"

namespace harmonic {
namespace {

class TextObjective : public Objective {
 public:
  void run(const ObjectivePass& pass) const override {
    Tape tape(pass.model.backend(), pass.context, pass.memory, &pass.gradients);
    Step step(tape, pass.segments, pass.in, pass.out, pass.d_out, pass.d_in);
    const Variable hidden = pass.model.forward(step, pass.tokens);
    linear_cross_entropy(tape, hidden, pass.model.head(), pass.targets, pass.losses, pass.loss_scale);
    tape.backward();
  }
  bool takes_pieces() const override { return true; }
};

}  // namespace

const Objective& text_objective() {
  static const TextObjective objective;
  return objective;
}

}  // namespace harmonic
