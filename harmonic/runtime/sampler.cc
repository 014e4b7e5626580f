#include "harmonic/runtime/sampler.h"

#include "harmonic/base/random.h"

namespace harmonic {

TokenChoice Sampler::choice(uint64_t index) const {
  return {options_.temperature, options_.top_k, options_.top_p, options_.min_p,
          Random(options_.seed, stream_of("sample")).uniform(index)};
}

int32_t Sampler::chosen(int32_t token) {
  if (token < 0) fail("the model's logits are not finite; its weights are damaged or it has diverged");
  return token;
}

int32_t Sampler::sample(const Tensor& logits, uint64_t index) {
  return chosen(chooser_.choose(logits, choice(index)));
}

}  // namespace harmonic
