// Bits per token and per byte of a split of text.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

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

// Some of the targets.
struct TargetBits {
  int64_t tokens = 0;
  double bits = 0;
  double bits_per_token() const { return bits / static_cast<double>(tokens); }  // nan when there are none
};

struct EvaluationResult {
  static constexpr size_t kPhases = 16;

  int64_t tokens = 0;  // targets scored
  // Source bytes they stand for, one counted for each end of text. With max_tokens, the split's bytes a token
  // times `tokens`, rounded.
  int64_t bytes = 0;
  double bits = 0;  // nan or infinite when a loss was
  double bits_per_token() const { return bits / static_cast<double>(tokens); }
  double bits_per_byte() const { return bits / static_cast<double>(bytes); }
  // By the tokens that the model had seen since its state was zero, the end-of-text token or the first of a
  // window among them: entry k is for 2^k to 2^(k + 1) - 1 of them. As long as the targets need.
  std::vector<TargetBits> by_context;
  // By that number less one, t, modulo 16.
  std::array<TargetBits, kPhases> by_phase;
};

// Scores every target of the corpus once. The same bits whatever the batch size and the number of threads:
// losses have the same bits, and their sum does not depend on the order (see ExactSum). Working memory
// depends on the model, not on the length of the windows. Throws Interrupted when the program is asked to
// stop.
EvaluationResult evaluate(Inference& inference, const TokenCorpus& corpus, const EvaluationOptions& options);

}  // namespace harmonic
