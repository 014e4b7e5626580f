// What kernels are written in, and that the stand-in for CUDA notices a kernel that strays.
#include "cuda_on_cpu.h"
#include "harmonic/ops/cuda_rounding.h"
#include "harmonic/ops/cuda_scan.h"
#include "harmonic/ops/cuda_tile_products.h"

#include <gtest/gtest.h>

#include <numeric>

namespace harmonic::cuda {
namespace {

TEST(CudaKernel, ABlocksSumIsThatOfAllItsThreadsForEachOfThem) {
  constexpr int kThreads = 96;
  std::vector<float> sums(kThreads), most(kThreads);
  float *to_sums = sums.data(), *to_most = most.data();
  launch<kThreads>({1}, kThreads / kWarpSize * 4, [=] {
    auto* across = dynamic_shared<float>();
    const auto own = static_cast<float>(threadIdx.x);
    to_sums[threadIdx.x] = block_sum(own, across);
    to_most[threadIdx.x] = block_max(own, across);
  });
  EXPECT_EQ(sums, std::vector<float>(kThreads, 95.0f * 96 / 2));
  EXPECT_EQ(most, std::vector<float>(kThreads, 95.0f));
}

TEST(CudaKernel, EveryIndexAndEveryRowHasItsTurnOnce) {
  for (const int64_t count : {0, 1, 5, 300}) {
    std::vector<int> turns(static_cast<size_t>(count)), lanes(static_cast<size_t>(count));
    int *of_index = turns.data(), *of_row = lanes.data();
    for_each(count, [=](int64_t i) { ++of_index[i]; });
    for_each_row(count, [=](int64_t row, int) { ++of_row[row]; });
    EXPECT_EQ(turns, std::vector<int>(static_cast<size_t>(count), 1));
    EXPECT_EQ(lanes, std::vector<int>(static_cast<size_t>(count), kWarpSize));
  }
}

TEST(CudaKernel, ColumnsAreSummedWhateverTheNumberOfRows) {
  ThreadPool pool(1);
  Arena scratch;
  Context context{pool, scratch};
  for (const int64_t rows : {0, 1, 32, 33, 1000, 40000}) {
    std::vector<float> sums(3, 0.5f);
    float* to = sums.data();
    sum_columns(
        context, rows, 3, [=](int64_t r, int64_t c) { return static_cast<float>(r % 7 + c); },
        [=](int64_t c, float sum) { to[c] += sum; });
    for (int64_t c = 0; c < 3; ++c) {
      double expected = 0.5;
      for (int64_t r = 0; r < rows; ++r) expected += static_cast<double>(r % 7 + c);
      EXPECT_EQ(sums[static_cast<size_t>(c)], static_cast<float>(expected)) << rows << " rows";
    }
  }
}

// As it is while many tiles are computed at once: those before have told their effects alone, back to one
// whose state is known, as are those before it, which have done so.
TEST(CudaKernel, AStateIsFoundBehindTilesThatHaveToldTheirEffectsAlone) {
  constexpr int64_t kTiles = 80, kChannels = 35, kRows = 2;
  ThreadPool pool(1);
  Arena scratch;
  Context context{pool, scratch};
  const int64_t offsets[] = {0, kRows * kTiles};
  const ScanTiles tiles({offsets, 1}, kRows);
  for (const int64_t nearest : {47, 48, 76, 78}) {
    const LookBack look_back(context, tiles, kChannels);
    const int64_t n = kTiles - 1, across = look_back.blocks_across;
    ASSERT_EQ(across, 2);
    std::vector<float> expected(kChannels), found(kChannels, NAN);
    for (int64_t c = 0; c < kChannels; ++c) {
      float s = static_cast<float>(c) - 7.5f;
      for (int64_t k = nearest; k < n; ++k) {
        const float decay = k % 3 == 0 ? 0 : 0.75f + static_cast<float>(k) / 512;
        const auto added = static_cast<float>(k - 2 * c);
        look_back.words[k * kChannels + c] = LookBack::effect_word(decay, added);
        if (k > nearest) s = std::fma(decay, s, added);
      }
      look_back.words[nearest * kChannels + c] = LookBack::state_word(static_cast<float>(c) - 7.5f);
      look_back.words[(nearest - 1) * kChannels + c] = LookBack::state_word(NAN);
      expected[static_cast<size_t>(c)] = s;
    }
    float* to = found.data();
    launch<64>({across}, sizeof(LookBack::Shared), [=] {
      const LookBack::Place place{n, blockIdx.x};
      const int64_t c = place.across * LookBack::kChannels + threadIdx.x;
      const float s = look_back.enter(*dynamic_shared<LookBack::Shared>(), place, false, NAN, 0.5f, 1);
      if (threadIdx.x < 32 && c < kChannels) to[c] = s;
    });
    EXPECT_EQ(found, expected) << "state of tile " << nearest;
    EXPECT_EQ(look_back.words[n * kChannels + 34], LookBack::state_word(std::fma(0.5f, expected[34], 1.0f)));
  }
}

TEST(CudaKernel, SoftplusIsThatOfDoubleButForRounding) {
  for (float x = -80; x < 80; x += 0.0137f) {
    const double exact = x, expected = std::max(exact, 0.0) + std::log1p(std::exp(-std::abs(exact)));
    // The exponent is rounded once before the power is taken.
    EXPECT_NEAR(fast_softplus(x), expected, (5e-7 + 1e-7 * std::abs(exact)) * expected) << x;
  }
  EXPECT_EQ(fast_softplus(-INFINITY), 0.0f);
  EXPECT_EQ(fast_softplus(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(fast_softplus(NAN)));
}

TEST(CudaKernel, F16IsTheNearestWithTiesToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = float_of_f16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float_of_f16(f16_of_float(value))));
      continue;
    }
    EXPECT_EQ(f16_of_float(value), bits);
    // Halfway to the next goes to the even one; anything beyond to the next.
    const uint32_t next_bits = bits + 1;
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float next = float_of_f16(static_cast<uint16_t>(next_bits)), middle = (value + next) / 2;
    EXPECT_EQ(f16_of_float(middle), bits % 2 == 0 ? bits : next_bits) << middle;
    EXPECT_EQ(f16_of_float(std::nextafter(middle, next)), next_bits) << middle;
    EXPECT_EQ(f16_of_float(std::nextafter(middle, value)), bits) << middle;
  }
  EXPECT_EQ(f16_of_float(65519.0f), 0x7bff);
  EXPECT_EQ(f16_of_float(65520.0f), 0x7c00);
  EXPECT_EQ(f16_of_float(-1e30f), 0xfc00);
}

TEST(CudaKernel, Bf16IsTheNearestWithTiesToEven) {
  EXPECT_EQ(float_of_bf16(bf16_of(1.0f)), 1.0f);
  EXPECT_EQ(float_of_bf16(bf16_of(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(float_of_bf16(bf16_of(1.0f + 0x1p-8f + 0x1p-20f)), 1.0f + 0x1p-7f);
  EXPECT_EQ(float_of_bf16(bf16_of(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_EQ(float_of_bf16(bf16_of(-INFINITY)), -INFINITY);
  EXPECT_TRUE(std::isnan(float_of_bf16(bf16_of(NAN))));
}

// c = a b^T and d = c e of numbers that both kinds of products hold exactly, as a warp computes them.
template <typename Products>
void expect_products_of_tiles() {
  constexpr int kRowBlocks = 2, kColumnBlocks = 4, kWidth = 48;
  constexpr int kRows = 16 * kRowBlocks, kColumns = 8 * kColumnBlocks;
  using Tile = SharedRows<typename Products::Number, kWidth>;
  const auto a = [](int r, int c) { return static_cast<float>((r * 5 + c * 3) % 7 - 3); };
  const auto b = [](int r, int c) { return static_cast<float>((r * 3 + c) % 3 - 1); };
  const auto e = [](int r, int c) { return static_cast<float>((r * 2 + c * 7) % 5 - 2); };
  std::vector<float> c_found(kRows * kColumns, NAN), d_found(kRows * kWidth, NAN);
  float *to_c = c_found.data(), *to_d = d_found.data();
  launch<kWarpSize>({1}, Tile::bytes(kRows + 2 * kColumns), [=] {
    const Tile left{dynamic_shared<typename Products::Number>()}, right = left.from_row(kRows);
    const Tile other = right.from_row(kColumns);
    const auto fill = [](const Tile& tile, int rows, const auto& numbers) {
      for (int i = lane_index() * 4; i < rows * kWidth; i += kWarpSize * 4) {
        const int r = i / kWidth, c = i % kWidth;
        *reinterpret_cast<typename Products::Four*>(tile[r] + c) =
            Products::four({numbers(r, c), numbers(r, c + 1), numbers(r, c + 2), numbers(r, c + 3)});
      }
    };
    fill(left, kRows, a);
    fill(right, kColumns, b);
    fill(other, kColumns, e);
    __syncwarp();
    Sums<kRowBlocks, kColumnBlocks> scores;
    Sums<kRowBlocks, kWidth / 8> output;
    scores.clear();
    output.clear();
    Products::add_rows_by_rows(scores, left, right);
    Products::add_sums_by_rows(output, scores, other);
    scores.for_each([&](int r, int n, int place, float& sum) {
      to_c[row_in_warp(r) * kColumns + Products::score_column(n, place)] = sum;
    });
    output.for_each([&](int r, int n, int place, float& sum) {
      to_d[row_in_warp(r) * kWidth + Products::output_column(n, place)] = sum;
    });
  });
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      float sum = 0;
      for (int k = 0; k < kWidth; ++k) sum += a(r, k) * b(c, k);
      ASSERT_EQ(c_found[static_cast<size_t>(r * kColumns + c)], sum) << r << " " << c;
    }
    for (int c = 0; c < kWidth; ++c) {
      float sum = 0;
      for (int k = 0; k < kColumns; ++k) sum += c_found[static_cast<size_t>(r * kColumns + k)] * e(k, c);
      ASSERT_EQ(d_found[static_cast<size_t>(r * kWidth + c)], sum) << r << " " << c;
    }
  }
}

TEST(CudaTileProducts, AreThoseOfTheirMatrices) {
  expect_products_of_tiles<F32Products>();
  expect_products_of_tiles<Bf16Products>();
}

TEST(CudaTileProducts, AWarpsSumsOfBf16ProductsAreRoundedWhenTheyAreFactors) {
  float found = 0;
  launch<kWarpSize>({1}, SharedRows<uint16_t, 16>::bytes(16), [to = &found] {
    const SharedRows<uint16_t, 16> ones{dynamic_shared<uint16_t>()};
    for (int c = 0; c < 16; ++c) ones[lane_index() % 16][c] = bf16_of(1);
    __syncwarp();
    Sums<1, 2> factors, sums;
    factors.for_each([](int, int, int, float& factor) { factor = 1 + 0x1p-9f; });
    sums.clear();
    Bf16Products::add_sums_by_rows(sums, factors, ones);
    if (threadIdx.x == 0) *to = sums.at[0][0][0];
  });
  EXPECT_EQ(found, 16.0f);
}

TEST(CudaOnCpuDeathTest, NoticesAKernelThatStrays) {
  EXPECT_DEATH(launch<64>({1}, 0,
                          [] {
                            if (threadIdx.x < 40) __syncthreads();
                          }),
               "threads have ended while others wait");
  EXPECT_DEATH(launch<32>({1}, 0,
                          [] {
                            if (threadIdx.x < 7) warp_sum(1);
                          }),
               "some lanes of a warp shuffle and others do not");
  EXPECT_DEATH(launch<32>({1}, 300 << 10, [] {}), "more shared memory than a block has");
  EXPECT_DEATH(for_each(1, [](int64_t) { __syncthreads(); }),
               "a barrier in a launch that was said to have none");
}

// What is copied arrives no sooner than it is waited for.
TEST(CudaOnCpuDeathTest, NoticesCopiesThatNobodyWaitsForOrThatGoAstray) {
  alignas(16) static const float from[8] = {1, 2, 3, 4};
  float seen[2] = {};
  launch<32>({1}, 16, [to = seen] {
    auto* shared = dynamic_shared<float>();
    if (threadIdx.x > 0) return;
    shared[0] = 7;
    begin_copy(shared, from);
    to[0] = shared[0];
    finish_copies();
    to[1] = shared[0];
  });
  EXPECT_TRUE(std::isnan(seen[0]));
  EXPECT_EQ(seen[1], 1);
  EXPECT_DEATH(launch<32>({1}, 16, [] { begin_copy(dynamic_shared<float>(), from); }),
               "a thread ends and its copies are under way");
  EXPECT_DEATH(launch<32>({1}, 16, [] { begin_copy(dynamic_shared<float>() + 64, from); }),
               "an address beyond the block's shared memory");
  EXPECT_DEATH(launch<32>({1}, 32, [] { begin_copy(dynamic_shared<float>() + 1, from); }),
               "an address that is not a multiple of 16 bytes");
  EXPECT_DEATH(launch<32>({1}, 32, [] { begin_copy(dynamic_shared<float>(), from + 1); }),
               "a copy from an address that is not a multiple of 16 bytes");
}

TEST(CudaOnCpuDeathTest, SharedMemoryIsPoisonedBeforeEveryBlock) {
  float seen[2] = {};
  float* to = seen;
  launch<32>({2}, 4, [=] {
    auto* shared = dynamic_shared<float>();
    if (threadIdx.x > 0) return;
    to[blockIdx.x] = *shared;
    *shared = 1;
  });
  EXPECT_TRUE(std::isnan(seen[0]) && std::isnan(seen[1]));
}

TEST(CudaOnCpuDeathTest, ATensorOutOfReachIsNoticedWhereWorkIsDeferred) {
  float number = 0;
  const Tensor tensor{&number, 1, 1, 1, DType::f32, Device::cpu};
  rows_of(tensor);
  const cuda_on_cpu::Deferral deferral;
  EXPECT_DEATH(rows_of(tensor), "memory that kernels do not reach");
}

TEST(CudaOnCpu, DeferredWorkIsDoneInOrderWhenItIsWaitedFor) {
  int number = 1;
  {
    const cuda_on_cpu::Deferral deferral;
    for_each(1, [at = &number](int64_t) { *at += 1; });
    for_each(1, [at = &number](int64_t) { *at *= 10; });
  }
  EXPECT_EQ(number, 1);
  cuda_on_cpu::complete();
  EXPECT_EQ(number, 20);
}

}  // namespace
}  // namespace harmonic::cuda
