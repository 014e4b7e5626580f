// Bits per token and per byte of a split of text.
#pragma once

#include <cstdint>

#include "harmonic/data/evaluation_windows.h"
#include "harmonic/model/inference.h"

namespace harmonic {

struct EvaluationOptions {
  int64_t length = 1024;  // tokens a window
  EvaluationState state = EvaluationState::cold;
  int64_t batch_size = 0;  // windows at a time; 0 is as many as compute well together
  int64_t max_tokens = 0;  // targets at most, from the start of the split; 0 is all of them
  bool show_progress = false;
};

struct EvaluationResult {
  int64_t tokens = 0;  // targets scored
  // Source bytes they stand for, one counted for each end of text. With max_tokens, the split's bytes a token
  // times `tokens`, rounded.
  int64_t bytes = 0;
  double bits = 0;  // nan or infinite when a loss was
  double bits_per_token() const { return bits / static_cast<double>(tokens); }
  double bits_per_byte() const { return bits / static_cast<double>(bytes); }
};

// Scores every target of the corpus once. The same bits whatever the batch size and the number of threads:
// losses have the same bits, and their sum does not depend on the order (see ExactSum). Working memory
// depends on the model, not on the length of the windows. Throws Interrupted when the program is asked to
// stop.
EvaluationResult evaluate(Inference& inference, const TokenCorpus& corpus, const EvaluationOptions& options);

// A sum that does not depend on its order: numbers are rounded to multiples of 2^-40 and added as integers,
// exactly. For fewer than 2^50 numbers below 2^30 in magnitude; larger ones and those that are not finite
// make it nan.
class ExactSum {
 public:
  void add(double number);
  double value() const;

 private:
  __int128 units_ = 0;
  bool broken_ = false;
};

}  // namespace harmonic
