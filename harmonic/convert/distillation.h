// Distillation: what a student with layers of constant state learns from the model it was made of.
//
// Each text of a batch is seen whole by the teacher, from a zero state, without gradients; nothing of it is
// kept beyond the pass.
#pragma once

#include <memory>
#include <string>

#include "harmonic/base/thread_pool.h"
#include "harmonic/data/batch.h"
#include "harmonic/train/objective.h"

namespace harmonic {

// "layers": each replaced layer's mixer is to give what the teacher's gives for the teacher's own normed
// input. Layers do not see each other: a layer's tape is gone before the teacher goes on to the next. A row's
// loss is the mean over layers of its squared distance over the mean square of what the teacher's mixer gives
// in `sample`, texts that stay the same throughout a phase: so it depends on no other row of its pass. Only
// the replaced layers' mixers are trained. "teacher": logits, `share` of the divergence from the teacher's
// and the rest of the text's cross-entropy; `sample` is not read. The teacher must outlive it. Throws Error
// (usage) when the student's layers are not the teacher's.
std::unique_ptr<Objective> make_distillation(const std::string& kind, const Model& teacher,
                                             const Model& student, double share, const Batch& sample,
                                             ThreadPool& pool);

// The sample of a run: the beginning of its texts, as long as a sequence.
Batch sample_of(const TokenCorpus& texts, const Model& teacher, int64_t seq_len);

}  // namespace harmonic
