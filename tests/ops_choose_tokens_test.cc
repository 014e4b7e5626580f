// The choice of tokens from logits: every backend's is the definition's.
#include "harmonic/ops/choose_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "emulated_cuda.h"
#include "harmonic/base/random.h"
#include "harmonic/ops/cuda_plugin.h"

namespace harmonic {
namespace {

using Rows = std::vector<std::vector<float>>;

// How the rows of logits lie: farther apart than they are long, with what is no number between them.
enum class Layout { anywhere, from_pack_to_pack };

std::vector<int32_t> chosen(const Backend& backend, const Rows& rows, const std::vector<TokenChoice>& choices,
                            Layout layout = Layout::anywhere) {
  ThreadPool pool(2);
  Arena memory(backend.memory), scratch(backend.memory);
  Context context{pool, scratch};
  const auto count = static_cast<int64_t>(rows.size()), tokens = static_cast<int64_t>(rows[0].size());
  const bool packs = layout == Layout::from_pack_to_pack;
  const int64_t stride = packs ? (tokens / 4 + 2) * 4 : tokens + 3;
  const Tensor all = memory.tensor(count, stride, backend.dtype);
  const Tensor logits = all.columns(packs ? 0 : 1, tokens);
  const auto put = [&](const Tensor& tensor, int64_t r, int64_t v, float logit) {
    backend.dtype == DType::f64 ? tensor.row<double>(r)[v] = logit : tensor.row<float>(r)[v] = logit;
  };
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t v = 0; v < stride; ++v) put(all, r, v, std::numeric_limits<float>::quiet_NaN());
    for (int64_t v = 0; v < tokens; ++v)
      put(logits, r, v, rows[static_cast<size_t>(r)][static_cast<size_t>(v)]);
  }
  auto* own = static_cast<TokenChoice*>(
      memory.allocate(count * static_cast<int64_t>(sizeof(TokenChoice)), MemoryUse::shared));
  std::copy(choices.begin(), choices.end(), own);
  const Tensor result = memory.tensor(1, count, DType::i32, MemoryUse::shared);
  backend(context, ChooseTokens{logits, own, result});
  backend.synchronize();
  return {result.as<int32_t>(), result.as<int32_t>() + count};
}

std::vector<const Backend*> device_backends() {
  std::vector<const Backend*> all = {&emulated_cuda_backend(), &emulated_cuda_device_backend()};
  if (a_card_is_tested()) all.push_back(cuda_plugin().f32);
  return all;
}

Rows random_rows(int64_t count, int64_t tokens, double spread) {
  Rows rows;
  for (int64_t r = 0; r < count; ++r) {
    const Random random(static_cast<uint64_t>(r), stream_of("logits"));
    rows.emplace_back();
    for (int64_t v = 0; v < tokens; ++v)
      rows.back().push_back(static_cast<float>(spread * (2 * random.uniform(static_cast<uint64_t>(v)) - 1)));
  }
  return rows;
}

// Choices without ranks, by other numbers for each row.
std::vector<TokenChoice> random_choices(int64_t count) {
  const Random random(5, stream_of("choices"));
  std::vector<TokenChoice> choices;
  for (int64_t r = 0; r < count; ++r) {
    TokenChoice choice;
    choice.temperature = r % 5 == 0 ? 0 : 0.3 * static_cast<double>(r % 5);
    choice.min_p = r % 3 == 0 ? 0.05 : 0;
    choice.uniform = r % 7 == 0 ? 1 - 0x1p-20 : random.uniform(static_cast<uint64_t>(r));
    choices.push_back(choice);
  }
  return choices;
}

// Devices choose what the reference does, by a random number that differs by 1e-6 at most; and what is kept.
void expect_as_the_reference(const Rows& rows, const std::vector<TokenChoice>& choices) {
  constexpr double kError = 1e-6, kBelowOne = 1 - 0x1p-53;
  std::vector<TokenChoice> lower = choices, higher = choices;
  for (TokenChoice& choice : lower) choice.uniform = std::max(0.0, choice.uniform - kError);
  for (TokenChoice& choice : higher) choice.uniform = std::min(kBelowOne, choice.uniform + kError);
  const std::vector<int32_t> lowest = chosen(reference_backend(), rows, lower),
                             highest = chosen(reference_backend(), rows, higher);
  for (const Backend* backend : device_backends()) {
    for (const Layout layout : {Layout::anywhere, Layout::from_pack_to_pack}) {
      const std::vector<int32_t> tokens = chosen(*backend, rows, choices, layout);
      for (size_t r = 0; r < rows.size(); ++r) {
        EXPECT_GE(tokens[r], lowest[r]) << backend->name << ", row " << r << " of " << rows[r].size();
        EXPECT_LE(tokens[r], highest[r]) << backend->name << ", row " << r << " of " << rows[r].size();
        if (tokens[r] < 0 || choices[r].temperature <= 0) continue;
        const float most = *std::max_element(rows[r].begin(), rows[r].end());
        const double below = rows[r][static_cast<size_t>(tokens[r])] - most;
        EXPECT_GE(std::exp(below / choices[r].temperature), choices[r].min_p - 1e-12);
      }
    }
  }
}

TEST(ChooseTokens, AreTheSameOnEveryBackend) {
  for (const int64_t tokens : {1, 2, 31, 33, 500, 511, 512, 516, 3000}) {
    for (const double spread : {0.0, 1.0, 30.0, 400.0}) {
      const Rows rows = random_rows(40, tokens, spread);
      const std::vector<TokenChoice> choices = random_choices(40);
      EXPECT_EQ(chosen(cpu_backend(), rows, choices), chosen(reference_backend(), rows, choices));
      SCOPED_TRACE(testing::Message() << tokens << " tokens, spread " << spread);
      expect_as_the_reference(rows, choices);
    }
  }
}

// More rows than a card has multiprocessors.
TEST(ChooseTokens, OfManyRowsAreTheSameOnEveryBackend) {
  expect_as_the_reference(random_rows(150, 700, 5), random_choices(150));
}

TEST(ChooseTokens, OfALargeVocabularyAreTheSameOnEveryBackend) {
  for (const int64_t tokens : {50257, 70001})
    for (const double spread : {0.1, 8.0})
      expect_as_the_reference(random_rows(16, tokens, spread), random_choices(16));
}

// Sums of such weights are exact, wherever a device begins with another one.
TEST(ChooseTokens, EqualLogitsAreCountedThrough) {
  constexpr int32_t kTokens = 1 << 17;
  std::vector<TokenChoice> choices;
  std::vector<int32_t> expected;
  for (const int32_t token : {0, 1, 4, 127, 128, 511, 512, 4097, 65535, 65536, 100000, kTokens - 1}) {
    choices.push_back({.temperature = 0.7, .uniform = static_cast<double>(token) / kTokens});
    expected.push_back(token);
  }
  const Rows rows(expected.size(), std::vector<float>(kTokens, -3.3f));
  for (const Backend* backend : device_backends())
    for (const Layout layout : {Layout::anywhere, Layout::from_pack_to_pack})
      EXPECT_EQ(chosen(*backend, rows, choices, layout), expected) << backend->name;
}

TEST(ChooseTokens, ATokenDoesNotDependOnTheOtherRows) {
  const Rows rows = random_rows(20, 3000, 2);
  const std::vector<TokenChoice> choices = random_choices(20);
  for (const Backend* backend : device_backends()) {
    const std::vector<int32_t> together = chosen(*backend, rows, choices);
    for (size_t r = 0; r < rows.size(); ++r)
      EXPECT_EQ(chosen(*backend, {rows[r]}, {choices[r]})[0], together[r]) << backend->name;
  }
}

TEST(ChooseTokens, OfEqualLogitsTheLowestIsTheLikeliest) {
  const Rows rows = {{-1, 2, 0, 2, 2}, std::vector<float>(5, -7)};
  const std::vector<TokenChoice> greedy(2, {.temperature = 0});
  EXPECT_EQ(chosen(cpu_backend(), rows, greedy), (std::vector<int32_t>{1, 0}));
  for (const Backend* backend : device_backends())
    EXPECT_EQ(chosen(*backend, rows, greedy), (std::vector<int32_t>{1, 0}));
}

TEST(ChooseTokens, TheLikeliestMayBeFarApart) {
  std::vector<float> row(3001, -1);
  for (const size_t v : {700, 1500, 3000}) row[v] = 2;
  std::vector<TokenChoice> choices = {{.temperature = 0, .uniform = 0.9}};
  for (const double uniform : {0.0, 0.3, 0.5, 0.7, 1 - 0x1p-53})
    choices.push_back({.temperature = 2, .min_p = 1, .uniform = uniform});
  const Rows rows(choices.size(), row);
  const std::vector<int32_t> expected = {700, 700, 700, 1500, 3000, 3000};
  EXPECT_EQ(chosen(reference_backend(), rows, choices), expected);
  for (const Backend* backend : device_backends()) EXPECT_EQ(chosen(*backend, rows, choices), expected);
}

// Differences that no f32 holds, and temperatures neither.
TEST(ChooseTokens, NumbersMayBeAsLargeAsTheyCome) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::vector<float> row(1000, -kLargest);
  row[600] = kLargest;
  std::vector<TokenChoice> choices = {{.temperature = 0}};
  for (const double temperature : {1e-310, 1e-40, 1.0, 1e36})
    choices.push_back({.temperature = temperature, .uniform = 0.7});
  choices.push_back({.temperature = 1e300, .uniform = 0.7005});
  const Rows rows(choices.size(), row);
  const std::vector<int32_t> expected = {600, 600, 600, 600, 600, 700};
  for (const Backend* backend : device_backends()) EXPECT_EQ(chosen(*backend, rows, choices), expected);
}

// Where what rounding leaves decides, whatever is chosen is one of those that are kept.
TEST(ChooseTokens, TheLargestNumberChoosesATokenThatIsKept) {
  const Rows rows = random_rows(40, 3000, 30);
  const std::vector<TokenChoice> choices(40, {.min_p = 0.1, .uniform = 1 - 0x1p-53});
  for (const Backend* backend : device_backends()) {
    const std::vector<int32_t> tokens = chosen(*backend, rows, choices);
    for (size_t r = 0; r < rows.size(); ++r) {
      ASSERT_TRUE(tokens[r] >= 0 && tokens[r] < 3000);
      const float most = *std::max_element(rows[r].begin(), rows[r].end());
      EXPECT_GE(std::exp(rows[r][static_cast<size_t>(tokens[r])] - most), 0.0999);
    }
  }
}

TEST(ChooseTokens, ALogitThatIsNotFiniteIsTold) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const double temperature : {0.0, 1.0}) {
    Rows rows(4, std::vector<float>(700, 0.5f));
    rows[0][699] = std::numeric_limits<float>::quiet_NaN();
    rows[1][0] = kInfinity;
    rows[2][300] = -kInfinity;
    const std::vector<TokenChoice> choices(4, {.temperature = temperature, .uniform = 0.999999});
    std::vector<int32_t> expected = {-1, -1, -1, temperature > 0 ? 699 : 0};
    EXPECT_EQ(chosen(cpu_backend(), rows, choices), expected);
    for (const Backend* backend : device_backends()) EXPECT_EQ(chosen(*backend, rows, choices), expected);
  }
}

TEST(ChooseTokens, TheCpuKeepsRanksAsTheReferenceDoes) {
  const Rows rows = random_rows(30, 400, 4);
  std::vector<TokenChoice> choices = random_choices(30);
  for (size_t r = 0; r < choices.size(); ++r) {
    choices[r].top_k = static_cast<int64_t>(r % 4 * 5);
    choices[r].top_p = r % 2 == 0 ? 0.7 : 1;
  }
  EXPECT_EQ(chosen(cpu_backend(), rows, choices), chosen(reference_backend(), rows, choices));
}

}  // namespace
}  // namespace harmonic
