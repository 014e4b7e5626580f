#include "harmonic/eval/context_curve.h"

#include <gtest/gtest.h>

#include "harmonic/base/error.h"
#include "small_models.h"

namespace harmonic {
namespace {

struct Setting {
  explicit Setting(const ModelConfig& config) : model(config, cpu_backend(), false), inference(model, pool) {
    initialise_for_test(model, 2);
  }
  ThreadPool pool{2};
  Model model;
  Inference inference;
};

ModelConfig byte_config() {
  ModelConfig config = small_configs().front().config;
  config.vocab_size = 256;
  return config;
}

TokenCorpus corpus() {
  std::vector<std::string> documents;
  for (int i = 0; i < 6; ++i)
    documents.push_back(std::string(static_cast<size_t>(40 + 17 * i), static_cast<char>('a' + i)));
  return TokenCorpus::from_documents(documents, *make_byte_tokenizer());
}

TEST(ContextCurve, TargetsAndTheirBitsAreThoseOfEachTextFedByItself) {
  Setting s(byte_config());
  const TokenCorpus texts = corpus();
  ContextOptions options;
  options.contexts = {16, 64, 200};
  options.group = 8;
  options.groups = 5;
  const std::vector<TargetBits> found = bits_by_context(s.inference, texts, options);
  const int64_t places = texts.targets() - 200 + 1;
  for (size_t c = 0; c < options.contexts.size(); ++c) {
    double expected = 0;
    for (int64_t i = 0; i < 5; ++i) {
      const int64_t end = 200 + (places - 1) * i / 4, context = options.contexts[c];
      std::vector<int32_t> text(static_cast<size_t>(context) + 1);
      texts.read(end - context, context + 1, text.data());
      State state(s.model.state_layout());
      std::vector<double> bits;
      s.inference.score(state, text.data(), context, bits);
      for (size_t t = bits.size() - 8; t < bits.size(); ++t) expected += bits[t];
    }
    EXPECT_EQ(found[c].tokens, 40);
    EXPECT_NEAR(found[c].bits, expected, 1e-6) << options.contexts[c];
  }
}

TEST(ContextCurve, TheTargetsDoNotDependOnWhichOtherContextsAreAskedFor) {
  Setting s(byte_config());
  ContextOptions options;
  options.group = 8;
  options.contexts = {32, 128};
  const double together = bits_by_context(s.inference, corpus(), options).front().bits;
  options.contexts = {32};
  options.longest = 128;
  EXPECT_EQ(bits_by_context(s.inference, corpus(), options).front().bits, together);
}

// Attention with a context raised past what it was made for takes texts that pass through several calls.
TEST(ContextCurve, AttentionIsFedTextsThatNoOnePassHolds) {
  ModelConfig config = byte_config();
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 3000};
  Setting s(config);
  const TokenCorpus texts = TokenCorpus::from_documents({std::string(3500, 'x')}, *make_byte_tokenizer());
  ContextOptions options;
  options.contexts = {3000};
  options.group = 4;
  options.groups = 1;
  const TargetBits found = bits_by_context(s.inference, texts, options).front();
  std::vector<int32_t> text(3001);
  texts.read(0, 3001, text.data());
  State state(s.model.state_layout());
  std::vector<double> bits;
  s.inference.score(state, text.data(), 3000, bits);
  double expected = 0;
  for (size_t t = bits.size() - 4; t < bits.size(); ++t) expected += bits[t];
  EXPECT_NEAR(found.bits, expected, 1e-6);
}

TEST(ContextCurve, WhatHasNoRoomIsRefused) {
  Setting s(byte_config());
  ContextOptions options;
  options.contexts = {32};
  options.group = 64;
  EXPECT_THROW(bits_by_context(s.inference, corpus(), options), Error);
  options.contexts = {100000};
  EXPECT_THROW(bits_by_context(s.inference, corpus(), options), Error);
}

}  // namespace
}  // namespace harmonic
