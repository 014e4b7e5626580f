// Batches through a model without gradients, in passes of bounded memory.
#pragma once

#include <functional>

#include "harmonic/eval/batch_pass.h"
#include "harmonic/model/inference.h"

namespace harmonic {

// All splits of a batch into passes, and of texts into batches, give the same bits. Not thread-safe. The
// Inference must outlive it.
class BatchForward {
 public:
  // A pass takes no more memory than this: where there are more texts, each with its states, rows are fewer.
  static constexpr int64_t kRowsPerPass = 2 * Inference::kRowsPerCall, kTextsPerPass = 16;

  explicit BatchForward(Inference& inference);

  // How many sequences of so many rows, at most kRowsPerPass, make a pass.
  int64_t sequences_a_pass(int64_t length) const;
  // From now on the states that this many sequences of a batch are left in are kept for the next batch, whose
  // first segments may continue from them. At first none are.
  void carry_states(int64_t sequences);

  struct Pass {
    int64_t begin;  // its first row in the batch
    const Segments& segments;
    const int64_t* positions;  // tokens that each segment's text had before
    const Tensor& hidden;      // [rows, d_model], as Inference::hidden() gives them
    Arena& memory;             // for what is needed until the pass ends
  };
  // The first `rows` rows of the batch, pass after pass in order. Throws Interrupted when the program is
  // asked to stop.
  void run(const Batch& batch, int64_t rows, const std::function<void(const Pass&)>& use);

 private:
  const StateLayout& layout() const { return inference_.model().state_layout(); }
  int64_t end_for_caches(const Batch& batch, int64_t begin, int64_t end) const;
  void pass(const Batch& batch, int64_t begin, int64_t end, const std::function<void(const Pass&)>& use);

  Inference& inference_;
  PassCost cost_;
  Arena kept_, memory_;
  StateRows left_;      // that the sequences of a batch were left in, for the next one
  StateRows entering_;  // of a segment that was cut because a pass has only so much memory; made when one is
};

}  // namespace harmonic
