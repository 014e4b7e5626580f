// runtime: models at work for people: sampling, generation, scoring of streams, states on disk.
//
// Choosing the next token from logits. The random number of a choice depends on (seed, index of the token)
// alone, so that neither batching nor a restart can change a sample.
#pragma once

#include <cstdint>

#include "harmonic/ops/token_chooser.h"

namespace harmonic {

// What they mean: TokenChoice (ops/choose_tokens.h).
struct SamplingOptions {
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  uint64_t seed = 1;
};

// Not thread-safe (it keeps working memory); cheap to make.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) {}

  // A token for one row of logits [1, V]; `index` is the token's place in its text. Throws Error when a logit
  // is not finite.
  int32_t sample(const Tensor& logits, uint64_t index);
  // The same in two parts: the choice that is to be made, and the token that it came to (checked).
  TokenChoice choice(uint64_t index) const;
  static int32_t chosen(int32_t token);

 private:
  SamplingOptions options_;
  TokenChooser chooser_;
};

}  // namespace harmonic
