// runtime: models at work for people: sampling, generation, scoring of streams, states on disk.
//
// Choosing the next token from logits. The random number of a choice depends on (seed, index of the token)
// alone, so that neither batching nor a restart can change a sample.
#pragma once

#include <cstdint>
#include <vector>

#include "harmonic/tensor/tensor.h"

namespace harmonic {

struct SamplingOptions {
  double temperature = 1;  // 0 is greedy
  int64_t top_k = 0;       // keep the k likeliest; 0 keeps all
  double top_p = 1;        // keep the likeliest that together reach this probability
  double min_p = 0;        // drop what is less likely than this share of the likeliest
  uint64_t seed = 1;
};

// Not thread-safe (it keeps working memory); cheap to make.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) {}

  // A token for one row of logits [1, V]; `index` is the token's place in its text. The filters apply in the
  // order temperature, top_k, top_p, min_p; of equal logits the lower id comes first; at least one token is
  // always kept. The random number is looked up in the sums of what is kept, in the order of ids. Throws
  // Error when a logit is not finite.
  int32_t sample(const Tensor& logits, uint64_t index);

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

  SamplingOptions options_;
  std::vector<Candidate> candidates_;  // a heap, followed by those already taken from it, the likeliest last
  size_t taken_ = 0;
};

}  // namespace harmonic
