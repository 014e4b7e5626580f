// Bits per token and byte: the same bits however the work is divided, and exactly the losses' sum.
#include "harmonic/eval/evaluation.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <limits>

#include "harmonic/eval/exact_sum.h"
#include "small_models.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

TEST(ExactSum, DoesNotDependOnTheOrder) {
  const Random random(1, stream_of("sum"));
  std::vector<double> numbers;
  for (uint64_t i = 0; i < 10000; ++i)
    numbers.push_back(std::ldexp(random.uniform(i), static_cast<int>(i % 60) - 40));
  ExactSum forwards, backwards;
  double plain = 0;
  for (const double number : numbers) {
    forwards.add(number);
    plain += number;
  }
  for (auto i = numbers.rbegin(); i != numbers.rend(); ++i) backwards.add(*i);
  EXPECT_EQ(forwards.value(), backwards.value());
  EXPECT_NEAR(forwards.value(), plain, 1e-9 * plain);
}

TEST(ExactSum, OfANumberThatIsNotFiniteIsNan) {
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    ExactSum sum;
    sum.add(1);
    sum.add(bad);
    sum.add(2);
    EXPECT_TRUE(std::isnan(sum.value()));
  }
}

class Evaluation : public testing::Test {
 protected:
  Evaluation() : model_(config(), cpu_backend(), false) { initialise_for_test(model_, 3); }
  static ModelConfig config() {
    ModelConfig config = small_configs().front().config;
    config.vocab_size = 256;
    return config;
  }
  EvaluationResult result(int64_t length, EvaluationState state, int64_t batch_size, int threads = 1,
                          int64_t max_tokens = 0) {
    ThreadPool pool(threads);
    Inference inference(model_, pool);
    EvaluationOptions options;
    options.length = length;
    options.state = state;
    options.batch_size = batch_size;
    options.max_tokens = max_tokens;
    return evaluate(inference, corpus_, options);
  }

  Model model_;
  std::unique_ptr<Tokenizer> tokenizer_ = make_byte_tokenizer();
  // One document longer than a pass has rows.
  TokenCorpus corpus_ = TokenCorpus::from_documents(
      {small_text(70, 1), small_text(5000, 2), small_text(1, 3), small_text(300, 4)}, *tokenizer_);
};

TEST_F(Evaluation, HasTheSameBitsWhateverTheBatchAndTheThreads) {
  for (const EvaluationState state : {EvaluationState::cold, EvaluationState::carry}) {
    for (const int64_t length : {1, 7, 64, 3000}) {
      const EvaluationResult one = result(length, state, 1);
      EXPECT_EQ(one.tokens, corpus_.targets());
      EXPECT_EQ(one.bytes, corpus_.source_bytes());
      for (const int64_t batch_size : {0, 3, 16})
        EXPECT_EQ(result(length, state, batch_size, 2).bits, one.bits) << length << ' ' << batch_size;
    }
  }
}

TEST_F(Evaluation, OfCarriedStatesDoesNotDependOnTheLength) {
  const double bits = result(64, EvaluationState::carry, 1).bits;
  EXPECT_EQ(result(5, EvaluationState::carry, 1).bits, bits);
  EXPECT_EQ(result(10000, EvaluationState::carry, 1).bits, bits);
  // Windows that hold every document whole are no colder.
  EXPECT_EQ(result(10000, EvaluationState::cold, 1).bits, bits);
  EXPECT_NE(result(64, EvaluationState::cold, 1).bits, bits);
}

TEST_F(Evaluation, IsTheSumOfTheLossesOfEveryDocument) {
  ThreadPool pool(1);
  Inference inference(model_, pool);
  double bits = 0;
  for (int64_t d = 0; d < corpus_.documents(); ++d) {
    std::vector<int32_t> tokens(static_cast<size_t>(corpus_.document_length(d)) + 1);
    corpus_.read(corpus_.document_begin(d), static_cast<int64_t>(tokens.size()), tokens.data());
    State state(model_.state_layout());
    for (size_t t = 0; t + 1 < tokens.size(); ++t) {
      const Tensor logits = inference.advance(state, &tokens[t], 1);
      double total = 0;
      for (int64_t v = 0; v < logits.cols; ++v) total += std::exp(number_at(logits, 0, v));
      bits += (std::log(total) - number_at(logits, 0, tokens[t + 1])) / std::log(2.0);
    }
  }
  EXPECT_NEAR(result(10000, EvaluationState::carry, 1).bits, bits, 1e-5 * bits);
}

// What two results have by context and by phase.
void expect_equal_parts(const EvaluationResult& a, const EvaluationResult& b) {
  ASSERT_EQ(a.by_context.size(), b.by_context.size());
  for (size_t i = 0; i < a.by_context.size(); ++i) {
    EXPECT_EQ(a.by_context[i].tokens, b.by_context[i].tokens) << i;
    EXPECT_EQ(a.by_context[i].bits, b.by_context[i].bits) << i;
  }
  for (size_t i = 0; i < a.by_phase.size(); ++i) {
    EXPECT_EQ(a.by_phase[i].tokens, b.by_phase[i].tokens) << i;
    EXPECT_EQ(a.by_phase[i].bits, b.by_phase[i].bits) << i;
  }
}

TEST_F(Evaluation, ByContextAndPhaseHasTheSameBitsWhateverTheBatchTheSplitAndTheThreads) {
  for (const int64_t length : {1, 7, 64, 3000}) {
    const EvaluationResult one = result(length, EvaluationState::cold, 1);
    for (const int64_t batch_size : {0, 3, 16})
      expect_equal_parts(result(length, EvaluationState::cold, batch_size, 2), one);
  }
  const EvaluationResult whole = result(10000, EvaluationState::carry, 1);
  for (const int64_t length : {5, 64, 3000})
    for (const int64_t batch_size : {1, 3})
      expect_equal_parts(result(length, EvaluationState::carry, batch_size, 2), whole);
}

TEST_F(Evaluation, ByContextCountsTheTokensSinceTheStateWasZero) {
  // Documents have 71, 5001, 2 and 301 tokens with the leading one, which is the first that is seen.
  const auto tokens_of = [](const EvaluationResult& result) {
    std::vector<int64_t> tokens;
    for (const TargetBits& bucket : result.by_context) tokens.push_back(bucket.tokens);
    return tokens;
  };
  const EvaluationResult carry = result(64, EvaluationState::carry, 2);
  EXPECT_EQ(tokens_of(carry), (std::vector<int64_t>{4, 3 + 4, 4 * 3, 8 * 3, 16 * 3, 32 * 3, 64 * 2 + 8,
                                                    128 * 2, 256 + 46, 512, 1024, 2048, 906}));
  // No window of 5 has seen more than 5; the last one of the corpus is cut short.
  const EvaluationResult cold = result(5, EvaluationState::cold, 3);
  EXPECT_EQ(tokens_of(cold).size(), 3u);
  for (size_t phase = 5; phase < cold.by_phase.size(); ++phase) {
    EXPECT_EQ(cold.by_phase[phase].tokens, 0);
    EXPECT_TRUE(std::isnan(cold.by_phase[phase].bits_per_token()));
  }
  for (const EvaluationResult& one : {carry, cold}) {
    int64_t by_context = 0, by_phase = 0;
    for (const TargetBits& bucket : one.by_context) by_context += bucket.tokens;
    for (const TargetBits& phase : one.by_phase) by_phase += phase.tokens;
    EXPECT_EQ(by_context, one.tokens);
    EXPECT_EQ(by_phase, one.tokens);
  }
}

TEST_F(Evaluation, ByContextAndPhaseSumsTheLossesOfItsTargets) {
  ThreadPool pool(1);
  Inference inference(model_, pool);
  std::vector<double> by_context(13), by_phase(16);
  for (int64_t d = 0; d < corpus_.documents(); ++d) {
    std::vector<int32_t> tokens(static_cast<size_t>(corpus_.document_length(d)) + 1);
    corpus_.read(corpus_.document_begin(d), static_cast<int64_t>(tokens.size()), tokens.data());
    State state(model_.state_layout());
    std::vector<double> bits;
    inference.score(state, tokens.data(), static_cast<int64_t>(tokens.size()) - 1, bits);
    for (size_t t = 0; t < bits.size(); ++t) {
      by_context[static_cast<size_t>(std::log2(t + 1))] += bits[t];
      by_phase[t % 16] += bits[t];
    }
  }
  const EvaluationResult all = result(100, EvaluationState::carry, 3);
  ASSERT_EQ(all.by_context.size(), by_context.size());
  for (size_t i = 0; i < by_context.size(); ++i) EXPECT_NEAR(all.by_context[i].bits, by_context[i], 1e-6);
  for (size_t i = 0; i < by_phase.size(); ++i) EXPECT_NEAR(all.by_phase[i].bits, by_phase[i], 1e-6);
}

int64_t peak_memory() {
  struct rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

TEST(EvaluationOfAWideState, TakesNoMoreMemoryForWindowsOfOneToken) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps freed memory";
#endif
  ModelConfig config = small_configs().front().config;
  config.vocab_size = 256;
  config.harmonic.cell = {"selective"};
  config.harmonic.d_state = 512;
  Model model(config, cpu_backend(), false);
  initialise_for_test(model, 3);
  ThreadPool pool(1);
  const TokenCorpus corpus = TokenCorpus::from_documents({small_text(5000, 2)}, *make_byte_tokenizer());
  const auto peak_at = [&](int64_t length, EvaluationState state) {
    Inference inference(model, pool);
    EvaluationOptions options;
    options.length = length;
    options.state = state;
    EXPECT_EQ(evaluate(inference, corpus, options).tokens, corpus.targets());
    return peak_memory();
  };
  const int64_t at_length = peak_at(2048, EvaluationState::cold);
  for (const EvaluationState state : {EvaluationState::cold, EvaluationState::carry})
    EXPECT_LT(peak_at(1, state) - at_length, at_length / 2);
}

// A state of 256 MB, of which short texts need nothing.
TEST(EvaluationWithALargeContext, TakesTheMemoryThatItsTextsNeed) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps freed memory";
#endif
  ModelConfig config;
  config.mixer = {"attention"};
  config.d_model = 32;
  config.attention = {.n_heads = 4, .n_kv_heads = 4, .context = 1 << 20};
  Model model(config, cpu_backend(), false);
  initialise_for_test(model, 3);
  ThreadPool pool(1);
  const TokenCorpus corpus = TokenCorpus::from_documents({small_text(5000, 2)}, *make_byte_tokenizer());
  const int64_t before = peak_memory();
  for (const int64_t length : {1, 512, 2048}) {
    Inference inference(model, pool);
    EvaluationOptions options;
    options.length = length;
    EXPECT_EQ(evaluate(inference, corpus, options).tokens, corpus.targets());
  }
  EXPECT_LT(peak_memory() - before, model.state_layout().bytes() / 4);
}

TEST_F(Evaluation, OfTheStartOfASplitCountsItsOwnTokensAndBytes) {
  for (const EvaluationState state : {EvaluationState::cold, EvaluationState::carry}) {
    const EvaluationResult part = result(64, state, 0, 1, 1000);
    EXPECT_EQ(part.tokens, 1000);
    EXPECT_EQ(part.bytes, 1000);
    EXPECT_LT(part.bits, result(64, state, 0).bits);
    EXPECT_EQ(result(64, state, 3, 1, 1000).bits, part.bits);
  }
}

}  // namespace
}  // namespace harmonic
