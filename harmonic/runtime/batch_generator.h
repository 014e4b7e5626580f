// Many texts at once, each by itself: samples for training and for statistics.
#pragma once

#include <functional>
#include <string>

#include "harmonic/model/inference.h"
#include "harmonic/runtime/sampler.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

struct BatchGeneratorOptions {
  int64_t count = 1;
  int64_t max_tokens = 256;  // of a text, the prompt's apart
  int64_t together = 64;     // texts at a time
  SamplingOptions sampling;
};

// Calls use(text) for each text, in order. Text i depends on the model, the prompt, the sampling and i alone,
// whatever goes beside it: its choices are those of a seed that the given one and i make. A text ends with
// the model's end of text, after max_tokens, or where the model's context is full, and holds the prompt too.
// Throws Interrupted.
void generate_texts(Inference& inference, const Tokenizer& tokenizer, const std::string& prompt,
                    const BatchGeneratorOptions& options, const std::function<void(const std::string&)>& use);

}  // namespace harmonic
