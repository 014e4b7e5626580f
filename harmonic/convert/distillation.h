// Distillation: what a student with layers of constant state learns from the model it was made of.
//
// Each text of a batch is seen whole by the teacher, from a zero state, without gradients; nothing of it is
// kept beyond the pass.
#pragma once

#include <memory>
#include <string>

#include "harmonic/train/objective.h"

namespace harmonic {

// "layers": each replaced layer's mixer is to give what the teacher's gives for the teacher's own normed
// input. Layers do not see each other: a layer's tape is gone before the teacher goes on to the next. A row's
// loss is the mean over layers of its squared distance over the mean square of the teacher's outputs in the
// pass. "teacher": logits, `share` of the divergence from the teacher's and the rest of the text's
// cross-entropy. The teacher must outlive it. Throws Error (usage) when the student's layers are not the
// teacher's.
std::unique_ptr<Objective> make_distillation(const std::string& kind, const Model& teacher,
                                             const Model& student, double share);

}  // namespace harmonic
