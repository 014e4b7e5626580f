#include "harmonic/runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "harmonic/base/random.h"

namespace harmonic {
namespace {

using Logits = std::vector<float>;

Tensor row_of(const Logits& logits) {
  const auto count = static_cast<int64_t>(logits.size());
  return {const_cast<float*>(logits.data()), 1, count, count, DType::f32, Device::cpu};
}

int32_t sample(const Logits& logits, const SamplingOptions& options, uint64_t index = 0) {
  return Sampler(options).sample(row_of(logits), index);
}

Logits random_logits(size_t count, uint64_t seed, double spread = 3) {
  const Random random(seed, stream_of("logits"));
  Logits logits;
  for (size_t i = 0; i < count; ++i)
    logits.push_back(static_cast<float>(spread * (2 * random.uniform(i) - 1)));
  return logits;
}

struct Ranked {
  int32_t token;
  double probability;
};

// The tokens that the filters keep, likeliest first, with what is left to choose from summing to 1: as the
// names of the filters say it, one after the other.
std::vector<Ranked> naive_distribution(const Logits& logits, const SamplingOptions& options) {
  std::vector<Ranked> ranked;
  for (size_t v = 0; v < logits.size(); ++v)
    ranked.push_back(
        {static_cast<int32_t>(v), std::exp(static_cast<double>(logits[v]) / options.temperature)});
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.probability > b.probability; });
  const auto normalise = [&] {
    double sum = 0;
    for (const Ranked& r : ranked) sum += r.probability;
    for (Ranked& r : ranked) r.probability /= sum;
  };
  if (options.top_k > 0) ranked.resize(std::min(ranked.size(), static_cast<size_t>(options.top_k)));
  normalise();
  if (options.top_p < 1) {
    double reached = 0;
    size_t kept = 0;
    while (kept < ranked.size() && (kept == 0 || reached < options.top_p))
      reached += ranked[kept++].probability;
    ranked.resize(kept);
  }
  const double least = options.min_p * ranked[0].probability;
  std::erase_if(ranked, [&](const Ranked& r) { return r.probability < least; });
  normalise();
  return ranked;
}

int32_t naive_sample(const Logits& logits, const SamplingOptions& options, uint64_t index) {
  double remaining = Random(options.seed, stream_of("sample")).uniform(index);
  std::vector<Ranked> ranked = naive_distribution(logits, options);
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) { return a.token < b.token; });
  for (const Ranked& r : ranked) {
    if (remaining < r.probability) return r.token;
    remaining -= r.probability;
  }
  return ranked.back().token;
}

TEST(Sampler, GreedyTakesTheLikeliestAndOfEqualsTheLowestId) {
  const SamplingOptions greedy{.temperature = 0};
  EXPECT_EQ(sample({1, 5, 2}, greedy), 1);
  EXPECT_EQ(sample({1, 5, 2, 5, 5}, greedy), 1);
  EXPECT_EQ(sample({-3, -3, -3}, greedy), 0);
  EXPECT_EQ(sample({7}, greedy), 0);
  for (uint64_t index = 0; index < 20; ++index)
    EXPECT_EQ(sample({0, 1, 0.999f}, {.temperature = 0, .seed = index}, index), 1);
}

TEST(Sampler, OfEqualLogitsTopKKeepsTheLowestIds) {
  for (uint64_t index = 0; index < 200; ++index) EXPECT_LT(sample(Logits(50, 1.5f), {.top_k = 3}, index), 3);
}

TEST(Sampler, ChoosesAsANaiveComputationOfTheFiltersDoes) {
  std::vector<SamplingOptions> all;
  for (const double temperature : {0.3, 1.0, 2.5})
    for (const int64_t top_k : {0, 1, 2, 10, 39, 40, 1000})
      for (const double top_p : {0.0, 0.1, 0.5, 0.9, 0.999, 1.0})
        for (const double min_p : {0.0, 0.02, 0.3, 1.0}) all.push_back({temperature, top_k, top_p, min_p, 5});
  for (const SamplingOptions& options : all) {
    const Logits logits = random_logits(40, static_cast<uint64_t>(options.top_k));
    for (uint64_t index = 0; index < 50; ++index)
      ASSERT_EQ(sample(logits, options, index), naive_sample(logits, options, index))
          << "temperature " << options.temperature << " top_k " << options.top_k << " top_p " << options.top_p
          << " min_p " << options.min_p << " index " << index;
  }
}

TEST(Sampler, FiltersThatKeepAllChangeNothing) {
  const Logits logits = random_logits(100, 3);
  for (uint64_t index = 0; index < 300; ++index) {
    const int32_t token = sample(logits, {}, index);
    EXPECT_EQ(sample(logits, {.top_k = 100}, index), token);
    EXPECT_EQ(sample(logits, {.top_k = 5000}, index), token);
    EXPECT_EQ(sample(logits, {.top_p = 0.999999999999}, index), token);
    EXPECT_EQ(sample(logits, {.min_p = 1e-9}, index), token);
  }
}

TEST(Sampler, ATokenDependsOnTheSeedAndItsIndexAlone) {
  const Logits logits = random_logits(64, 9);
  Sampler one({.seed = 3});
  std::vector<int32_t> forward, backward;
  for (uint64_t i = 0; i < 100; ++i) forward.push_back(one.sample(row_of(logits), i));
  Sampler other({.seed = 3});
  for (uint64_t i = 100; i-- > 0;) backward.push_back(other.sample(row_of(logits), i));
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  std::vector<int32_t> another_seed;
  for (uint64_t i = 0; i < 100; ++i) another_seed.push_back(sample(logits, {.seed = 4}, i));
  EXPECT_NE(forward, another_seed);
  EXPECT_GT(std::set<int32_t>(forward.begin(), forward.end()).size(), 10u);
}

TEST(Sampler, FrequenciesAreTheProbabilities) {
  const Logits logits = random_logits(12, 17, 1.5);
  for (const SamplingOptions& options :
       {SamplingOptions{}, SamplingOptions{.temperature = 0.5}, SamplingOptions{.top_k = 4},
        SamplingOptions{.top_p = 0.7}, SamplingOptions{.min_p = 0.3}}) {
    constexpr int kDraws = 40'000;
    std::vector<int> counts(logits.size());
    Sampler sampler(options);
    for (int i = 0; i < kDraws; ++i)
      ++counts[static_cast<size_t>(sampler.sample(row_of(logits), static_cast<uint64_t>(i)))];
    double expected_total = 0;
    for (const Ranked& r : naive_distribution(logits, options)) {
      const double sigma = std::sqrt(kDraws * r.probability * (1 - r.probability));
      EXPECT_NEAR(counts[static_cast<size_t>(r.token)], kDraws * r.probability, 5 * sigma + 1e-6);
      expected_total += counts[static_cast<size_t>(r.token)];
    }
    EXPECT_EQ(expected_total, kDraws) << "a token that the filters drop was drawn";
  }
}

TEST(Sampler, ExtremeTemperaturesAndLogitsAreFine) {
  EXPECT_EQ(sample({1, 1.5f, 0}, {.temperature = 1e-300}, 7), 1);
  EXPECT_EQ(sample({-3e38f, 3e38f, -3e38f}, {.temperature = 0.1}, 7), 1);
  for (uint64_t index = 0; index < 50; ++index) {
    const int32_t token = sample({3e38f, 3e38f, -3e38f}, {.temperature = 100}, index);
    EXPECT_TRUE(token == 0 || token == 1);
  }
}

TEST(Sampler, LogitsThatAreNotFiniteAreAnError) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    EXPECT_THROW(sample({0, bad, 1}, {}), Error);
    EXPECT_THROW(sample({0, bad, 1}, {.temperature = 0}), Error);
  }
}

}  // namespace
}  // namespace harmonic
