// ChooseTokens (choose_tokens.h) of one row on the program's side.
#pragma once

#include <vector>

#include "harmonic/ops/choose_tokens.h"

namespace harmonic {

// Not thread-safe (it keeps working memory); cheap to make.
class TokenChooser {
 public:
  // For one row of logits [1, V], f32 or f64.
  int32_t choose(const Tensor& logits, const TokenChoice& choice);

 private:
  struct Candidate {
    double logit;
    double weight;  // probability over that of the likeliest
    int32_t token;
  };
  static bool less_likely(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.token > b.token;
  }
  const Candidate& ranked(size_t rank);

  std::vector<Candidate> candidates_;  // a heap, followed by those already taken from it, the likeliest last
  size_t taken_ = 0;
};

}  // namespace harmonic
