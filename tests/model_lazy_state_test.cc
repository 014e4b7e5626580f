// States with caches: a text pays for the tokens that it has.
#include <gtest/gtest.h>

#include <fstream>

#include "harmonic/model/state.h"

namespace harmonic {
namespace {

constexpr int64_t kRows = 1 << 20, kWidth = 128;  // half a GB

// Bytes of this process's memory that are there.
int64_t resident() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, there = 0;
  file >> all >> there;
  return there * 4096;
}

StateLayout layout() {
  StateLayout layout(DType::f32);
  layout.add("numbers", 10);
  layout.add_cache("cache", kRows, kWidth);
  return layout;
}

// A state after so many tokens, whose rows hold their numbers.
State state_after(int64_t tokens, const StateLayout& layout) {
  State state(layout);
  const StateRows row(state, layout);
  row.position(0) = static_cast<uint64_t>(tokens);
  float* cache = row.field(layout.fields()[1].field).as<float>();
  for (int64_t t = 0; t < std::min(tokens, kRows); ++t)
    for (int64_t i = 0; i < kWidth; ++i) cache[t * kWidth + i] = static_cast<float>(t + 1);
  return state;
}

float number(State& state, const StateLayout& layout, int64_t row) {
  return StateRows(state, layout).field(layout.fields()[1].field).as<float>()[row * kWidth];
}

TEST(LazyState, TakesMemoryForTheTokensThatATextHas) {
  const StateLayout layout = harmonic::layout();
  ASSERT_GT(layout.bytes(), int64_t{500} << 20);
  const int64_t before = resident();
  const State state = state_after(1000, layout), copy = state;
  State third(layout);
  third = copy;
  EXPECT_LT(resident() - before, int64_t{32} << 20);
  EXPECT_TRUE(third == state);
}

TEST(LazyState, CopiesHaveEveryRowOfTheTextAndNoOther) {
  const StateLayout layout = harmonic::layout();
  State state = state_after(1000, layout);
  StateRows(state, layout).field(layout.fields()[1].field).as<float>()[1000 * kWidth] = 7;  // beyond the text
  State copy = state;
  EXPECT_EQ(number(copy, layout, 999), 1000);
  EXPECT_EQ(number(copy, layout, 1000), 0);
  EXPECT_TRUE(copy == state) << "what nobody reads is no part of it";
  StateRows(copy, layout).field(layout.fields()[1].field).as<float>()[999 * kWidth] = 7;
  EXPECT_FALSE(copy == state);
  State moved = std::move(copy);
  EXPECT_EQ(moved.position(), 1000u);
}

// A text longer than the cache: the ring is full, whatever the position.
TEST(LazyState, CopiesAFullCacheWhole) {
  StateLayout layout(DType::f32);
  layout.add("numbers", 3);
  layout.add_cache("cache", 5, 4);
  layout.add_cache("other", 7, 2);
  State state(layout);
  const StateRows row(state, layout);
  row.position(0) = 123;
  for (const size_t field : {0u, 1u, 2u}) {
    const Tensor numbers = row.field(layout.fields()[field].field);
    for (int64_t i = 0; i < numbers.cols; ++i) numbers.as<float>()[i] = static_cast<float>(i + 1);
  }
  const State copy = state;
  EXPECT_EQ(copy.view(), state.view());
}

}  // namespace
}  // namespace harmonic
