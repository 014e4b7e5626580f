// Tasks: right and wrong of a model whose every guess is known, and the same bits however examples are
// batched.
#include "harmonic/eval/task.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "data_fixture.h"
#include "small_models.h"

namespace harmonic {
namespace {

class ListedTask : public Task {
 public:
  ListedTask(std::vector<TaskGroup> groups, std::vector<TaskExample> examples)
      : groups_(std::move(groups)), examples_(std::move(examples)) {}
  std::vector<TaskGroup> groups() const override { return groups_; }
  bool next(TaskExample& example) override {
    if (next_ == examples_.size()) return false;
    example = examples_[next_++];
    return true;
  }

 private:
  std::vector<TaskGroup> groups_;
  std::vector<TaskExample> examples_;
  size_t next_ = 0;
};

std::vector<TaskResult> results_of(const Model& model, const std::vector<TaskExample>& examples,
                                   std::vector<TaskGroup> groups, int64_t batch_size = 0, int threads = 1) {
  ThreadPool pool(threads);
  Inference inference(model, pool);
  ListedTask task(std::move(groups), examples);
  return run_task(inference, task, {.batch_size = batch_size});
}

// Sure that token v + 1 follows v, modulo the vocabulary: its mixer adds nothing, and the head finds v's
// vector in the row of v + 1.
class Counting : public testing::Test {
 protected:
  static constexpr int64_t kVocabulary = 8;
  static constexpr float kWeight = 1.5F;
  Counting() : model_(config(), cpu_backend(), false) {
    Parameters& parameters = model_.parameters();
    for (size_t i = 0; i < parameters.size(); ++i) fill(parameters[i], 0);
    fill(*parameters.find("final_norm.weight"), 1);
    for (int64_t v = 0; v < kVocabulary; ++v) {
      parameters.find("embed.weight")->value.row<float>(v)[v] = 1;
      parameters.find("head.weight")->value.row<float>((v + 1) % kVocabulary)[v] = kWeight;
    }
  }
  static ModelConfig config() {
    ModelConfig config = small_configs().front().config;
    config.vocab_size = config.d_model = kVocabulary;
    return config;
  }
  static void fill(Parameter& parameter, float number) {
    for (int64_t r = 0; r < parameter.value.rows; ++r)
      std::fill_n(parameter.value.row<float>(r), parameter.value.cols, number);
  }
  Model model_;
};

TEST_F(Counting, IsRightWhereEveryTokenOfTheTargetIsTheLikeliest) {
  const auto results = results_of(model_,
                                  {{{0, 1, 2}, {3, 4, 5}, 0},
                                   {{0, 1, 2}, {3, 4, 6}, 0},  // only the last is wrong
                                   {{0, 1, 2}, {2, 3, 4}, 0},  // only the first
                                   {{7}, {0}, 0},
                                   {{5, 5, 5, 5}, {6}, 1}},
                                  {{"several", 0.25}, {"one"}, {"none"}});
  ASSERT_EQ(results.size(), 2u);  // a group without examples has no result
  EXPECT_EQ(results[0].group.name, "several");
  EXPECT_EQ(results[0].group.chance, 0.25);
  EXPECT_EQ(results[0].examples, 4);
  EXPECT_EQ(results[0].correct, 2);
  EXPECT_EQ(results[0].accuracy(), 0.5);
  EXPECT_EQ(results[0].context_per_example(), 2.5);
  EXPECT_EQ(results[1].group.name, "one");
  EXPECT_EQ(results[1].examples, 1);
  EXPECT_EQ(results[1].accuracy(), 1);
}

TEST_F(Counting, CostsTheBitsOfTheTargetAlone) {
  // A vector of one 1 has the root of its size after the norm, but for its epsilon.
  const double logit = kWeight * std::sqrt(static_cast<double>(kVocabulary));
  const double all = std::log2(std::exp(logit) + kVocabulary - 1);
  const double right = all - logit * kBitsPerNat, wrong = all;
  const auto results = results_of(model_, {{{0, 5, 2}, {3, 4}, 0}, {{0, 1}, {1, 2, 2}, 0}}, {{"all"}});
  EXPECT_NEAR(results[0].bits, (right + right) + (wrong + right + wrong), 1e-3);
  EXPECT_EQ(results[0].bits_per_target(), results[0].bits / 2);
  EXPECT_DOUBLE_EQ(results[0].perplexity(), std::exp2(results[0].bits / 2));
}

TEST_F(Counting, OfTokensEquallyLikelyTheFirstIsTheLikeliest) {
  fill(*model_.parameters().find("head.weight"), 0);
  EXPECT_EQ(results_of(model_, {{{1}, {0, 0}, 0}, {{1}, {1}, 0}}, {{"all"}})[0].correct, 1);
}

TEST_F(Counting, HasBitsThatAreNoNumberWhereALossIsNone) {
  fill(*model_.parameters().find("head.weight"), std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(results_of(model_, {{{1}, {2}, 0}}, {{"all"}})[0].bits));
}

// Some longer than a pass has rows, some with targets that are.
std::vector<TaskExample> examples_of_all_lengths(int64_t vocabulary) {
  std::vector<TaskExample> examples;
  const int64_t lengths[][2] = {{1, 1}, {300, 2}, {5, 5}, {1900, 130}, {1, 40}, {64, 1}, {17, 3}};
  for (const auto& [prefix, target] : lengths) {
    const uint64_t seed = examples.size();
    examples.push_back({random_text(prefix, vocabulary, seed), random_text(target, vocabulary, seed + 100),
                        static_cast<size_t>(seed % 2)});
  }
  return examples;
}

class TaskOfEveryModel : public testing::TestWithParam<NamedConfig> {
 protected:
  TaskOfEveryModel() : model_(GetParam().config, cpu_backend(), false) { initialise_for_test(model_, 3); }
  Model model_;
  std::vector<TaskExample> examples_ = examples_of_all_lengths(GetParam().config.vocab_size);
};

TEST_P(TaskOfEveryModel, HasTheSameBitsHoweverBatched) {
  const auto one = results_of(model_, examples_, {{"even"}, {"odd"}}, 1);
  for (const int64_t batch_size : {0, 2, 3}) {
    const auto other = results_of(model_, examples_, {{"even"}, {"odd"}}, batch_size, 2);
    for (size_t g = 0; g < 2; ++g) {
      EXPECT_EQ(other[g].bits, one[g].bits);
      EXPECT_EQ(other[g].correct, one[g].correct);
    }
  }
}

TEST_P(TaskOfEveryModel, CostsWhatScoringTheTextFromItsStartDoes) {
  ThreadPool pool(1);
  Inference inference(model_, pool);
  double bits[2] = {};
  for (const TaskExample& example : examples_) {
    std::vector<int32_t> text = example.prefix;
    text.insert(text.end(), example.target.begin(), example.target.end());
    State state(model_.state_layout());
    std::vector<double> costs;
    inference.score(state, text.data(), static_cast<int64_t>(text.size()) - 1, costs);
    for (size_t i = example.prefix.size() - 1; i < costs.size(); ++i) bits[example.group] += costs[i];
  }
  const auto results = results_of(model_, examples_, {{"even"}, {"odd"}});
  for (size_t g = 0; g < 2; ++g) EXPECT_NEAR(results[g].bits, bits[g], 1e-6);
}

INSTANTIATE_TEST_SUITE_P(, TaskOfEveryModel, testing::ValuesIn(small_configs()),
                         [](const auto& tested) { return tested.param.name; });

TEST(TaskOfAttention, RefusesATextLongerThanItsContext) {
  ModelConfig config = small_configs().front().config;
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 50};
  Model model(config, cpu_backend(), false);
  initialise_for_test(model, 3);
  // The last token of a target is not read.
  const std::vector<TaskExample> longest = {{random_text(48, 37, 1), {1, 2, 3}, 0}};
  EXPECT_EQ(results_of(model, longest, {{"all"}})[0].examples, 1);
  const std::vector<TaskExample> longer = {{random_text(49, 37, 1), {1, 2, 3}, 0}};
  const std::string message = error_of([&] { results_of(model, longer, {{"all"}}); });
  EXPECT_NE(message.find("attention remembers 50 tokens of a text and this one has 51"), std::string::npos)
      << message;
}

TEST(TaskOfLongTexts, TakesMemoryForTheirTokensAlone) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps freed memory";
#endif
  Model model(small_configs().front().config, cpu_backend(), false);
  initialise_for_test(model, 3);
  const auto peak_at = [&](int64_t length) {
    results_of(model, {{random_text(length, 37, 1), {1}, 0}}, {{"all"}});
    struct rusage usage;
    ::getrusage(RUSAGE_SELF, &usage);
    return int64_t{usage.ru_maxrss} * 1024;
  };
  const int64_t length = 1 << 18, shorter = peak_at(1 << 12);
  EXPECT_LT(peak_at(length) - shorter,
            length * 64);  // its hidden rows alone, all levels', take several times that
}

}  // namespace
}  // namespace harmonic
