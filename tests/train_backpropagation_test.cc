// Exact gradients in bounded memory: chunks of time change nothing but rounding.
#include "harmonic/train/backpropagation.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "small_models.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

// Token = byte modulo the small models' vocabulary.
class FoldedTokenizer : public TinyTokenizer {
 public:
  int64_t vocab_size() const override { return 37; }
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    for (const unsigned char byte : text) tokens.push_back(1 + byte % 36);
  }
};

struct Gradients {
  LossSum loss;
  std::vector<std::vector<double>> of_parameters;
  std::string carried;  // the states after, as bytes
};

class TimeChunks : public testing::TestWithParam<NamedConfig> {
 protected:
  // Two sequences of 83 tokens: documents of 29, 5, 1 and 100 tokens in turn, the first segment of the second
  // sequence going on from a carried state.
  TimeChunks()
      : corpus_(TokenCorpus::from_documents(
            {small_text(28, 1), small_text(4, 2), "x", small_text(99, 3), small_text(90, 4)},
            FoldedTokenizer())) {
    batch_.clear();
    batch_.add_sequence();
    batch_.append(corpus_, 0, 83, true, true);
    batch_.add_sequence();
    batch_.append(corpus_, 60, 83, true, true);
  }

  Gradients gradients(const Backend& backend, int64_t chunk_len,
                      int64_t kept_states = Backpropagation::kKeptStates,
                      int64_t memory_bytes = int64_t{1} << 30, int threads = 1) {
    Model model(GetParam().config, backend, true);
    initialise_for_test(model, 5);
    ThreadPool pool(threads);
    Arena memory;
    const StateRows carried = make_state_rows(memory, model.state_layout(), batch_.sequences);
    {
      // A state that a text has left behind.
      Inference inference(model, pool);
      State state(model.state_layout());
      const std::vector<int32_t> before = random_text(53, 37, 6);
      inference.advance(state, before.data(), 53);
      carried.set(1, state);
    }
    Backpropagation backpropagation(model, pool, memory_bytes, chunk_len, kept_states);
    Gradients result;
    result.loss = backpropagation.run(batch_, carried, 1.0 / 166);
    for (size_t i = 0; i < model.parameters().size(); ++i) {
      const Tensor& grad = model.parameters()[i].grad;
      std::vector<double> numbers;
      for (int64_t r = 0; r < grad.rows; ++r)
        for (int64_t c = 0; c < grad.cols; ++c) numbers.push_back(number_at(grad, r, c));
      result.of_parameters.push_back(std::move(numbers));
    }
    result.carried.assign(carried.data, static_cast<size_t>(carried.count * model.state_layout().bytes()));
    return result;
  }

  // The largest relative error of a parameter's gradient, its norm against at least 1/1000 of the whole
  // gradient's.
  static double worst_error(const Gradients& a, const Gradients& reference) {
    const auto norm = [](const std::vector<double>& v) {
      double sum = 0;
      for (const double x : v) sum += x * x;
      return std::sqrt(sum);
    };
    double whole = 0, worst = 0;
    for (const auto& numbers : reference.of_parameters) whole = std::hypot(whole, norm(numbers));
    for (size_t i = 0; i < a.of_parameters.size(); ++i) {
      std::vector<double> difference = a.of_parameters[i];
      for (size_t k = 0; k < difference.size(); ++k) difference[k] -= reference.of_parameters[i][k];
      worst = std::max(worst, norm(difference) / std::max(norm(reference.of_parameters[i]), 1e-3 * whole));
    }
    return worst;
  }

  void expect_equal(const Gradients& chunked, const Gradients& whole, double tolerance,
                    const std::string& how) {
    EXPECT_LT(worst_error(chunked, whole), tolerance) << how;
    EXPECT_NEAR(chunked.loss.nats, whole.loss.nats, tolerance * whole.loss.nats) << how;
    EXPECT_EQ(chunked.loss.targets, whole.loss.targets) << how;
    EXPECT_EQ(chunked.carried, whole.carried) << how;
  }

  void expect_equal_gradients(const Backend& backend, double tolerance) {
    const Gradients whole = gradients(backend, 1 << 20);
    for (const int64_t chunk : {1, 5, 16, 17, 64})
      expect_equal(gradients(backend, chunk), whole, tolerance, fmt::format("chunks of {}", chunk));
  }

  TokenCorpus corpus_;
  Batch batch_;
};

TEST_P(TimeChunks, GiveTheGradientsOfTheWholeInDoublePrecision) {
  expect_equal_gradients(reference_backend(), 1e-10);
}

TEST_P(TimeChunks, GiveTheGradientsOfTheWholeOnTheProcessor) { expect_equal_gradients(cpu_backend(), 1e-5); }

// 64 tokens of one text, and of more texts as many as take no more.
TEST_P(TimeChunks, GiveTheGradientsOfTheWholeWhereTheMemoryCutsThem) {
  const Gradients whole = gradients(reference_backend(), 1 << 20);
  expect_equal(gradients(reference_backend(), 0, Backpropagation::kKeptStates, 1), whole, 1e-10, "1 byte");
}

// Of 83, 17 and 6 chunks: as few states as can be, fewer than there are chunks, and one fewer.
TEST_P(TimeChunks, GiveTheGradientsOfTheWholeWhenStatesAreRecomputedInTwoTiers) {
  const Gradients whole = gradients(reference_backend(), 1 << 20);
  for (const auto& [chunk, kept_states] :
       {std::pair{1, 1}, std::pair{1, 30}, std::pair{5, 1}, std::pair{5, 10}, std::pair{16, 5}})
    expect_equal(gradients(reference_backend(), chunk, kept_states), whole, 1e-10,
                 fmt::format("chunks of {}, {} states kept", chunk, kept_states));
}

INSTANTIATE_TEST_SUITE_P(Models, TimeChunks, testing::ValuesIn(small_configs()),
                         [](const auto& model) { return model.param.name; });

// Sequences that go by lanes: five of 700 tokens, of several documents each, the second from a carried state.
class Lanes : public TimeChunks {
 protected:
  Lanes() {
    std::vector<std::string> documents;
    for (uint64_t d = 0; d < 9; ++d) documents.push_back(small_text(300 + 40 * static_cast<int64_t>(d), d));
    corpus_ = TokenCorpus::from_documents(documents, FoldedTokenizer());
    batch_.clear();
    for (int64_t s = 0; s < 5; ++s) {
      batch_.add_sequence();
      batch_.append(corpus_, 650 * s, 700, true, s == 1);
    }
  }
};

TEST_P(Lanes, GiveTheGradientsOfTheWhole) {
  for (const Backend* backend : {&reference_backend(), &cpu_backend()}) {
    const Gradients whole = gradients(*backend, 1 << 20);
    expect_equal(gradients(*backend, 0), whole, backend->dtype == DType::f64 ? 1e-10 : 1e-5, "five lanes");
  }
}

// Fewer threads than lanes, as many, and more, so that a lane has several.
TEST_P(Lanes, GiveTheSameBitsOnAnyThreads) {
  const Gradients one = gradients(cpu_backend(), 0);
  EXPECT_NE(one.of_parameters, gradients(cpu_backend(), 1 << 20).of_parameters) << "there are lanes";
  for (const int threads : {2, 3, 5, 8}) {
    const Gradients many =
        gradients(cpu_backend(), 0, Backpropagation::kKeptStates, int64_t{1} << 30, threads);
    EXPECT_EQ(many.of_parameters, one.of_parameters) << threads << " threads";
    EXPECT_EQ(many.loss.nats, one.loss.nats) << threads << " threads";
    EXPECT_EQ(many.carried, one.carried) << threads << " threads";
  }
}

TEST_P(Lanes, TakeNoMoreMemoryThanIsAllowed) {
  Model model(GetParam().config, cpu_backend(), true);
  initialise_for_test(model, 5);
  // Groups of different numbers of lanes, in one batch and from batch to batch; and long texts that come to
  // one thread in the first group and to another in the next.
  std::vector<Batch> batches = {batch_};
  for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{
           {700}, {700, 700}, {1500}, {1500, 600}, {600, 1500}, {700, 700, 700, 700, 700, 700, 700}}) {
    Batch& batch = batches.emplace_back();
    batch.clear();
    for (const int64_t length : lengths) {
      batch.add_sequence();
      batch.append(corpus_, 0, length, true, false);
    }
  }
  for (const int threads : {2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t allowed : {int64_t{4} << 20, int64_t{32} << 20}) {
      Backpropagation backpropagation(model, pool, allowed);
      for (const Batch& batch : batches) {
        EXPECT_GT(backpropagation.run(batch, {}, 1.0).nats, 0);
        EXPECT_LE(backpropagation.peak_bytes() + backpropagation.kept_bytes(), allowed)
            << threads << " threads, batch " << &batch - batches.data();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Lanes, testing::ValuesIn(small_configs()),
                         [](const auto& model) { return model.param.name; });

// Resident memory of this process, in bytes: now ("VmRSS:") or at its largest ("VmHWM:").
int64_t resident_bytes(const std::string& which) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(which)) return std::stoll(line.substr(which.size())) * 1024;
  return -1;
}

// The most memory that `work` takes. It runs in a process of its own: the peak of this one may be that of
// another test.
int64_t memory_of(const auto& work) {
  int ends[2];
  if (::pipe(ends) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    const int64_t before = resident_bytes("VmRSS:");
    work();
    const int64_t taken = resident_bytes("VmHWM:") - before;
    ::_exit(::write(ends[1], &taken, sizeof taken) == sizeof taken ? 0 : 1);
  }
  ::close(ends[1]);
  int64_t taken = -1;
  EXPECT_EQ(::read(ends[0], &taken, sizeof taken), static_cast<ssize_t>(sizeof taken));
  ::close(ends[0]);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return taken;
}

// More chunks than states are kept: the second tier is at work.
TEST(TimeChunksOfALongText, NeedNoMoreMemoryForALongerText) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps freed memory";
#endif
  ModelConfig config = small_configs().front().config;
  config.vocab_size = 256;
  const auto memory_for = [&](int64_t length, int64_t chunk_len) {
    return memory_of([&] {
      Model model(config, cpu_backend(), true);
      initialise_for_test(model, 5);
      ThreadPool pool(1);
      const TokenCorpus corpus = TokenCorpus::from_documents({small_text(40000, 1)}, *make_byte_tokenizer());
      Batch batch;
      batch.clear();
      batch.add_sequence();
      batch.append(corpus, 0, length, false, true);
      Backpropagation backpropagation(model, pool, 0, chunk_len);
      if (!(backpropagation.run(batch, {}, 1.0).nats > 0)) ::_exit(2);
    });
  };
  constexpr int64_t kChunk = 64, kLength = 40000;
  static_assert(kLength / kChunk > Backpropagation::kKeptStates);
  const int64_t unchunked = memory_for(kLength, kLength);
  EXPECT_LT(memory_for(kLength, kChunk) - memory_for(1000, kChunk), unchunked / 20);
  EXPECT_GT(unchunked, 32 << 20) << "what there would be to see";
}

// A state is so large here that those kept at the borders would take more than all else.
TEST(TimeChunksOfALongText, TakeNoMoreThanIsAllowedWithTheStatesAtTheirBorders) {
  ModelConfig config = small_configs().front().config;
  config.vocab_size = 256;
  config.harmonic.cell = {"selective"};
  config.harmonic.d_state = 1024;
  Model model(config, cpu_backend(), true);
  initialise_for_test(model, 5);
  ThreadPool pool(1);
  const TokenCorpus corpus = TokenCorpus::from_documents({small_text(40000, 1)}, *make_byte_tokenizer());
  Batch batch;
  batch.clear();
  batch.add_sequence();
  batch.append(corpus, 0, 40000, false, true);
  constexpr int64_t kAllowed = 32 << 20;
  Backpropagation backpropagation(model, pool, kAllowed);
  ASSERT_GT(model.state_layout().bytes() * 40000 / backpropagation.chunk_rows(), kAllowed / 4)
      << "all borders' states would be much";
  EXPECT_GT(backpropagation.run(batch, {}, 1.0).nats, 0);
  EXPECT_LE(backpropagation.peak_bytes() + backpropagation.kept_bytes(), kAllowed);
  EXPECT_GT(backpropagation.peak_bytes() + backpropagation.kept_bytes(), kAllowed * 3 / 4);
  EXPECT_GT(backpropagation.kept_bytes(), kAllowed / 16);
}

// Thousands of documents of 1 to 8 tokens, in many short sequences and in one long one.
class ManyShortDocuments : public testing::TestWithParam<NamedConfig> {
 protected:
  static Batch batch(int64_t sequences) {
    std::vector<std::string> documents;
    for (int64_t d = 0; d < 3000; ++d)
      documents.push_back(small_text(1 + d * 5 % 7, static_cast<uint64_t>(d)));
    const TokenCorpus corpus = TokenCorpus::from_documents(documents, FoldedTokenizer());
    const int64_t length = corpus.targets() / sequences;
    Batch result;
    result.clear();
    for (int64_t b = 0; b < sequences; ++b) {
      result.add_sequence();
      result.append(corpus, b * length, length, false, true);
    }
    return result;
  }
};

TEST_P(ManyShortDocuments, TakeNoMoreMemoryThanIsAllowed) {
  Model model(GetParam().config, cpu_backend(), true);
  initialise_for_test(model, 5);
  ThreadPool pool(4);  // one for each lane that there comes to be, so that all of them take memory at once
  constexpr int64_t kAllowed = 2 << 20;
  for (const int64_t sequences : {1, 100}) {
    Backpropagation backpropagation(model, pool, kAllowed);
    const Batch documents = batch(sequences);
    EXPECT_GT(documents.segments.size(), 2900u);
    EXPECT_EQ(backpropagation.run(documents, {}, 1e-4).targets, documents.target_count);
    EXPECT_LE(backpropagation.peak_bytes(), kAllowed) << sequences << " sequences";
    // Passes hold whole sequences where they fit: nearly half may stay free for want of room for one more, of
    // what the states at chunk borders leave.
    EXPECT_GT(backpropagation.peak_bytes(), kAllowed / 3) << sequences << " sequences";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ManyShortDocuments, testing::ValuesIn([] {
                           std::vector<NamedConfig> configs = small_configs();
                           configs.push_back(configs[3]);
                           configs.back().name = "wide_state";
                           configs.back().config.harmonic.d_state = 512;
                           configs.back().config.harmonic.cell = {"selective"};
                           return configs;
                         }()),
                         [](const auto& model) { return model.param.name; });

TEST(TimeChunksOfALongText, AreAsLongAsTheMemoryAllows) {
  Model model(small_configs().front().config, cpu_backend(), true);
  ThreadPool pool(1);
  const Backpropagation one(model, pool, 16 << 20), two(model, pool, 32 << 20);
  EXPECT_LE(one.chunk_rows() * one.cost().row, 16 << 20);
  EXPECT_GT(one.chunk_rows() * one.cost().row, 8 << 20);
  EXPECT_NEAR(static_cast<double>(two.chunk_rows()) / static_cast<double>(one.chunk_rows()), 2, 0.05);
}

}  // namespace
}  // namespace harmonic
