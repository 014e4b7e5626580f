#include "harmonic/runtime/reading_plan.h"

#include <gtest/gtest.h>

#include <numeric>

namespace harmonic {
namespace {

std::vector<int64_t> divided(const ReadingPlan& plan, std::vector<int64_t> left, int64_t writers = 0,
                             int64_t first = 0) {
  std::vector<int64_t> rows;
  plan.divide(left, writers, first, rows);
  return rows;
}

// One that knows what a row and a step of writing take.
ReadingPlan experienced(double most_seconds = 0.01) {
  ReadingPlan plan(most_seconds, 1024);
  plan.learn(100, 0, 0.01);  // 0.1 ms a row
  plan.learn(0, 50, 0.004);
  return plan;
}

TEST(ReadingPlan, AShortPromptIsReadAtOnceAndALongOneWaitsForIt) {
  EXPECT_EQ(divided(experienced(), {100'000, 20}), (std::vector<int64_t>{ReadingPlan::kBesideFirst, 20}));
  EXPECT_EQ(divided(experienced(), {100'000}, 3, 1), (std::vector<int64_t>{ReadingPlan::kBesideFirst}));
}

TEST(ReadingPlan, ReadingTakesNoLongerThanTheWritingBesideIt) {
  EXPECT_EQ(divided(experienced(), {100'000}, 50), (std::vector<int64_t>{40}));
  EXPECT_EQ(divided(ReadingPlan(1, 1024), {100'000}, 50),
            (std::vector<int64_t>{ReadingPlan::kBesideWriters}));
}

TEST(ReadingPlan, AloneItTakesTheTimeThatItMay) {
  EXPECT_EQ(divided(experienced(0.01), {100'000}), (std::vector<int64_t>{100}));
  EXPECT_EQ(divided(experienced(0.0001), {100'000}), (std::vector<int64_t>{ReadingPlan::kAlone}));
  EXPECT_EQ(divided(experienced(1e9), {100'000}), (std::vector<int64_t>{1024}));
}

TEST(ReadingPlan, OfLongPromptsTheOneWithTheLeastLeftComesFirst) {
  EXPECT_EQ(divided(experienced(), {300'000, 1000, 200'000}), (std::vector<int64_t>{25, 50, 25}));
}

TEST(ReadingPlan, EverybodyGoesOnAndNobodyBeyondHisEndHoweverMany) {
  for (int64_t readers = 1; readers < 300; readers = 3 * readers + 1) {
    std::vector<int64_t> left;
    for (int64_t i = 0; i < readers; ++i) left.push_back(1 + i * 37 % 500);
    const std::vector<int64_t> rows = divided(experienced(), left, readers % 5, readers % 2);
    EXPECT_LE(std::accumulate(rows.begin(), rows.end(), int64_t{0}), 1024);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_GE(rows[i], 1);
      EXPECT_LE(rows[i], left[i]);
    }
  }
}

}  // namespace
}  // namespace harmonic
