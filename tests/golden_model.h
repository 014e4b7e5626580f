// Logits that the Hugging Face library gave a text, and how far a model's are from them.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "harmonic/model/inference.h"
#include "harmonic/model/safetensors.h"

namespace harmonic {

inline std::vector<int32_t> golden_tokens(const SafetensorsFile& file) {
  const StoredTensor& stored = file.at("tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(stored.size));
  std::memcpy(tokens.data(), stored.bytes.data(), stored.bytes.size());
  return tokens;
}

// The tensor `name` of the file holds what the model is to make of the tokens, each logit within 1e-4.
inline void expect_golden_logits(const Model& model, const std::vector<int32_t>& tokens,
                                 const SafetensorsFile& file, const std::string& name) {
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t vocabulary = model.config().vocab_size;
  std::vector<float> expected(static_cast<size_t>(length * vocabulary));
  file.read(name, std::vector<int64_t>{length, vocabulary}, expected.data());
  ThreadPool pool(2);
  Inference inference(model, pool);
  State state(model.state_layout());
  const StateRows row(state, model.state_layout());
  const int64_t offsets[2] = {0, length};
  const Tensor logits = inference.logits(inference.hidden(tokens.data(), {offsets, 1}, row, row));
  double worst = 0, largest = 0;
  for (int64_t t = 0; t < length; ++t)
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double theirs = expected[static_cast<size_t>(t * vocabulary + v)];
      worst = std::max(worst, std::abs(number_at(logits, t, v) - theirs));
      largest = std::max(largest, std::abs(theirs));
    }
  EXPECT_LE(worst, 1e-4);
  EXPECT_GT(largest, 0.5);  // so that 1e-4 says something
}

}  // namespace harmonic
