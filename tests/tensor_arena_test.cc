#include "harmonic/tensor/arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include <cstdlib>
#include <cstring>
#include <map>

namespace harmonic {
namespace {

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 64 == 0; }

TEST(Arena, EveryPieceIsAlignedAndApartFromAllOthers) {
  Arena arena;
  std::map<char*, int64_t> pieces;
  for (const int64_t size : {0L, 1L, 63L, 64L, 65L, 1000L, 5L << 20, 9L << 20, 3L << 20, 20L << 20, 1L}) {
    auto* data = static_cast<char*>(arena.allocate(size));
    ASSERT_TRUE(aligned(data));
    std::memset(data, 1, static_cast<size_t>(size));  // a fault, were it not ours
    pieces[data] = std::max<int64_t>(size, 1);
  }
  char* end = nullptr;
  for (const auto& [data, size] : pieces) {
    EXPECT_GE(data, end);
    end = data + size;
  }
}

TEST(Arena, RewindingGivesTheSameMemoryAgain) {
  Arena arena;
  arena.allocate(100);
  const Arena::Mark mark = arena.mark();
  const int64_t before = arena.in_use();
  void* first = arena.allocate(1000);
  arena.allocate(30 << 20);
  arena.rewind(mark);
  EXPECT_EQ(arena.in_use(), before);
  EXPECT_EQ(arena.allocate(1000), first);
  arena.clear();
  EXPECT_EQ(arena.in_use(), 0);
}

TEST(Arena, WhatStandsBeforeAMarkSurvivesTheRewind) {
  Arena arena;
  auto* numbers = arena.allocate_array<int>(1000);
  for (int i = 0; i < 1000; ++i) numbers[i] = i;
  for (int turn = 0; turn < 3; ++turn) {
    const ArenaScope scope(arena);
    for (int i = 0; i < 40; ++i) std::memset(arena.allocate(1 << 20), 0xff, 1 << 20);
  }
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(numbers[i], i);
}

int64_t resident() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, there = 0;
  file >> all >> there;
  return there * ::sysconf(_SC_PAGESIZE);
}

TEST(Arena, ALoopThatRewindsTakesNothingMoreAfterItsFirstTurn) {
  Arena arena;
  std::vector<void*> second;
  for (int turn = 0; turn < 5; ++turn) {
    const ArenaScope scope(arena);
    std::vector<void*> pieces;
    for (int i = 0; i < 100; ++i) pieces.push_back(arena.allocate((i * 7919 % 13) * 100'000));
    if (turn == 1) second = pieces;
    if (turn > 1) {
      EXPECT_EQ(pieces, second) << "turn " << turn;  // the same addresses: no new memory
    }
  }
}

// Blocks that are too small for what comes later would stay unused beside those that are not.
TEST(Arena, PiecesThatGrowFromTurnToTurnTakeWhatTheLargestTurnDoes) {
  constexpr int64_t kTurn = 60 << 20;
  Arena arena;
  const int64_t before = resident();
  for (int64_t piece = 1 << 20; piece <= 20 << 20; piece += 1 << 20) {
    const ArenaScope scope(arena);
    for (int64_t used = 0; used + piece <= kTurn; used += piece)
      std::memset(arena.allocate(piece), 1, static_cast<size_t>(piece));
  }
  EXPECT_LE(arena.peak(), kTurn);
  EXPECT_LT(resident(), before + kTurn + (16 << 20));
}

TEST(Arena, WhatIsInUseStaysWhereItIsWhileBlocksAreAdded) {
  Arena arena;
  auto* number = arena.allocate_array<int>(1);
  *number = 7;
  for (int turn = 1; turn <= 3; ++turn) {
    const ArenaScope scope(arena);
    for (int i = 0; i < 4; ++i) std::memset(arena.allocate(turn * (9 << 20)), 1, 1000);
  }
  EXPECT_EQ(*number, 7);
}

TEST(Arena, ScopesNest) {
  Arena arena;
  const ArenaScope outer(arena);
  arena.allocate(64);
  {
    const ArenaScope inner(arena);
    arena.allocate(64);
    EXPECT_EQ(arena.in_use(), 128);
  }
  EXPECT_EQ(arena.in_use(), 64);
}

TEST(Arena, ThePeakIsTheMostThatWasEverInUse) {
  Arena arena;
  {
    const ArenaScope scope(arena);
    arena.allocate(6400);
  }
  arena.allocate(640);
  EXPECT_EQ(arena.peak(), 6400);
  arena.reset_peak();
  EXPECT_EQ(arena.peak(), 640);
}

TEST(Arena, ReleasedItIsAsNew) {
  Arena arena;
  arena.allocate(20 << 20);
  arena.release();
  EXPECT_EQ(arena.in_use(), 0);
  EXPECT_EQ(arena.peak(), 0);
  std::memset(arena.allocate(1000), 1, 1000);
  EXPECT_EQ(arena.in_use(), 1024);
}

TEST(Arena, TensorsAreContiguousAndZerosAreZero) {
  Arena arena;
  {
    const ArenaScope scope(arena);
    std::memset(arena.allocate(4096), 0xff, 4096);
  }
  const Tensor zeros = arena.zeros(7, 9, DType::f32);
  EXPECT_EQ(zeros.rows, 7);
  EXPECT_EQ(zeros.cols, 9);
  EXPECT_TRUE(zeros.contiguous());
  for (int64_t r = 0; r < 7; ++r)
    for (int64_t c = 0; c < 9; ++c) EXPECT_EQ(zeros.row<float>(r)[c], 0);
  EXPECT_EQ(arena.tensor(3, 5, DType::f64).size(), 15);
}

TEST(Arena, MoreThanTheMachineHasIsAnError) {
  Arena arena;
  EXPECT_THROW(arena.allocate(int64_t{1} << 60), Error);
  EXPECT_TRUE(aligned(arena.allocate(100)));
}

TEST(Arena, GivesBackThePagesOfWhatIsForgottenAndNoOthers) {
  constexpr int64_t kBytes = 64 << 20;
  Arena arena;
  char* before = arena.allocate_array<char>(100);
  char* middle = arena.allocate_array<char>(kBytes);
  char* after = arena.allocate_array<char>(100);
  std::memset(before, 1, 100);
  std::memset(middle, 2, kBytes);
  std::memset(after, 3, 100);
  const int64_t full = resident(), in_use = arena.in_use();
  arena.forget(middle, kBytes);
  EXPECT_LT(resident(), full - kBytes / 2);
  EXPECT_EQ(arena.in_use(), in_use);
  EXPECT_EQ(std::count(before, before + 100, 1), 100);
  EXPECT_EQ(std::count(after, after + 100, 3), 100);
}

// Counts what it gives; everything else is plain memory.
class CountingSource : public MemorySource {
 public:
  void* allocate(int64_t bytes, MemoryUse use) override {
    ++given[static_cast<int>(use)];
    return std::aligned_alloc(64, static_cast<size_t>(bytes));
  }
  void release(void* memory, MemoryUse use) noexcept override {
    --given[static_cast<int>(use)];
    std::free(memory);
  }
  int given[2] = {};
};

TEST(Arena, TensorsComeFromTheSourceAndTheRestFromTheProgram) {
  CountingSource source;
  {
    Arena arena(&source);
    arena.allocate(100);
    EXPECT_EQ(source.given[0] + source.given[1], 0);
    const Arena::Mark mark = arena.mark();
    const Tensor first = arena.tensor(3, 5, DType::f32);
    EXPECT_EQ(first.device, Device::cuda);
    EXPECT_EQ(source.given[0], 1);
    const Tensor shared = arena.tensor(3, 5, DType::f32, MemoryUse::shared);
    EXPECT_EQ(source.given[1], 1);
    EXPECT_TRUE(aligned(first.data) && aligned(shared.data));
    arena.rewind(mark);
    EXPECT_EQ(arena.tensor(1, 1, DType::f32).data, first.data);
    EXPECT_EQ(arena.tensor(1, 1, DType::f32, MemoryUse::shared).data, shared.data);
    EXPECT_EQ(source.given[0] + source.given[1], 2);
  }
  EXPECT_EQ(source.given[0] + source.given[1], 0);
}

TEST(Arena, NeighboursAreOneRowWithZerosBetweenThemAndOthersAreNot) {
  Arena arena;
  auto* used = static_cast<float*>(arena.allocate(4 << 10));
  std::fill_n(used, 1 << 10, 7.0f);
  arena.clear();
  Tensor first{nullptr, 3, 5}, second{nullptr, 1, 16}, third{nullptr, 2, 9};
  arena.side_by_side({&first, &second, &third}, DType::f32);
  for (const Tensor* tensor : {&first, &second, &third}) {
    EXPECT_TRUE(aligned(tensor->data) && tensor->contiguous());
    std::fill_n(tensor->as<float>(), tensor->size(), 1.0f);
  }
  const Tensor two = joined(first, second), all = joined(two, third);
  ASSERT_TRUE(two && all);
  EXPECT_EQ(two.cols, 32);
  EXPECT_EQ(all.cols, 50);
  float sum = 0;
  for (int64_t i = 0; i < all.size(); ++i) sum += all.as<float>()[i];
  EXPECT_EQ(sum, 15 + 16 + 18);
  EXPECT_FALSE(joined(first, third));
  EXPECT_FALSE(joined(second, first));
  EXPECT_FALSE(joined(first.columns(0, 4), second));
}

}  // namespace
}  // namespace harmonic
