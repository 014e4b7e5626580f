// One model learning: batch, exact gradients, clipping, update. It knows nothing of files, logs or time.
#pragma once

#include <memory>

#include "harmonic/data/loader.h"
#include "harmonic/train/backpropagation.h"
#include "harmonic/train/optimizer.h"

namespace harmonic {

struct StepReport {
  int64_t step = 0;     // from 1
  int64_t targets = 0;  // tokens predicted
  double loss = 0;      // mean over the targets, in the objective's unit
  double gradient_norm = 0;
  double lr = 0;  // AdamW's
};

// Useful floating-point operations of a training step for each token: forward, and twice as many backward;
// recomputation does not count.
double training_operations_per_token(const Model& model);

// What step s does depends on the configuration, the corpus, s, and what is saved of the steps before:
// the parameters, optimizer().state() and carried(). Not thread-safe. Model, pool and objective must outlive
// this.
class Learner {
 public:
  // Throws Error when the corpus is too short for the configuration, or its sequences are longer than the
  // objective or the memory takes.
  Learner(Model& model, const RunConfig& config, TokenCorpus corpus, ThreadPool& pool,
          const Objective& objective = text_objective());

  // Takes the next step. Throws Diverged when the loss or the gradient is not finite, before any parameter
  // changes.
  StepReport advance();

  int64_t steps_done() const { return steps_done_; }
  int64_t total_steps() const { return total_steps_; }
  // After parameters, optimizer().state() and carried() were filled with what they were after that step.
  void continue_after(int64_t step) { steps_done_ = step; }

  const Model& model() const { return model_; }
  Optimizer& optimizer() { return optimizer_; }
  // The states that the streams were left in; null unless they are carried. A view of its memory.
  const StateRows& carried() const { return carried_; }
  const Backpropagation& backpropagation() const { return backpropagation_; }
  std::string remark() const { return loader_->remark(); }

 private:
  LossSum run_part(const Batch& batch, int64_t first_sequence, int64_t last_sequence, double loss_scale);

  Model& model_;
  TrainConfig config_;
  int64_t total_steps_, steps_done_ = 0;
  std::unique_ptr<Loader> loader_;
  Backpropagation backpropagation_;
  Optimizer optimizer_;
  Arena scratch_, states_;
  Context context_;
  StateRows carried_;
  Batch part_;
};

}  // namespace harmonic
