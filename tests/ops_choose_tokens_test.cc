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

std::vector<int32_t> chosen(const Backend& backend, const Rows& rows,
                            const std::vector<TokenChoice>& choices) {
  ThreadPool pool(2);
  Arena memory(backend.memory), scratch(backend.memory);
  Context context{pool, scratch};
  const auto count = static_cast<int64_t>(rows.size()), tokens = static_cast<int64_t>(rows[0].size());
  // Rows are farther apart than they are long.
  const Tensor logits = memory.tensor(count, tokens + 3, backend.dtype).columns(1, tokens);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t v = 0; v < tokens; ++v) {
      const float logit = rows[static_cast<size_t>(r)][static_cast<size_t>(v)];
      backend.dtype == DType::f64 ? logits.row<double>(r)[v] = logit : logits.row<float>(r)[v] = logit;
    }
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

TEST(ChooseTokens, AreTheSameOnEveryBackend) {
  for (const int64_t tokens : {1, 2, 31, 33, 500, 3000}) {
    for (const double spread : {0.0, 1.0, 30.0, 400.0}) {
      const Rows rows = random_rows(40, tokens, spread);
      const std::vector<TokenChoice> choices = random_choices(40);
      const std::vector<int32_t> expected = chosen(reference_backend(), rows, choices);
      EXPECT_EQ(chosen(cpu_backend(), rows, choices), expected);
      for (const Backend* backend : device_backends())
        EXPECT_EQ(chosen(*backend, rows, choices), expected)
            << backend->name << ", " << tokens << " tokens, spread " << spread;
    }
  }
}

// More rows than a card has multiprocessors.
TEST(ChooseTokens, OfManyRowsAreTheSameOnEveryBackend) {
  const Rows rows = random_rows(150, 700, 5);
  const std::vector<TokenChoice> choices = random_choices(150);
  const std::vector<int32_t> expected = chosen(reference_backend(), rows, choices);
  for (const Backend* backend : device_backends())
    EXPECT_EQ(chosen(*backend, rows, choices), expected) << backend->name;
}

TEST(ChooseTokens, OfEqualLogitsTheLowestIsTheLikeliest) {
  const Rows rows = {{-1, 2, 0, 2, 2}, std::vector<float>(5, -7)};
  const std::vector<TokenChoice> greedy(2, {.temperature = 0});
  EXPECT_EQ(chosen(cpu_backend(), rows, greedy), (std::vector<int32_t>{1, 0}));
  for (const Backend* backend : device_backends())
    EXPECT_EQ(chosen(*backend, rows, greedy), (std::vector<int32_t>{1, 0}));
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
