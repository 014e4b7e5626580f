// The matrix product against its definition, std::fma over k in order, to the bit.
#include "matmul_check.h"

#include <chrono>

#include "harmonic/ops/machine_peak.h"

namespace harmonic {
namespace {

TEST(Matmul, EveryElementIsTheChainOfFusedMultiplyAddsOverK) {
  Arena scratch;
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    for (const int threads : {1, 2}) {
      ThreadPool pool(threads);
      for (const Case& s : kCases)
        for (const Layout a : {Layout::rows, Layout::columns, Layout::neither})
          for (const Layout b : {Layout::rows, Layout::columns, Layout::neither})
            ASSERT_NO_FATAL_FAILURE(
                expect_defined(pool, scratch, s, a, b, MatmulMode::overwrite, (s.M + s.N) % 2 == 0));
    }
  }
}

TEST(Matmul, AccumulateAndSubtractStartFromTheOldValues) {
  Arena scratch;
  ThreadPool pool(2);
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    for (const Case& s : kCases)
      for (const MatmulMode mode : {MatmulMode::accumulate, MatmulMode::subtract})
        for (const Layout a : {Layout::rows, Layout::columns, Layout::neither})
          ASSERT_NO_FATAL_FAILURE(expect_defined(pool, scratch, s, a, Layout::rows, mode, false));
  }
}

TEST(Matmul, SizesOfZeroLeaveTheStartingValues) {
  Arena scratch;
  ThreadPool pool(2);
  for (const int64_t M : {1, 20}) {
    ASSERT_NO_FATAL_FAILURE(
        expect_defined(pool, scratch, {M, 20, 0}, Layout::rows, Layout::rows, MatmulMode::overwrite, false));
    ASSERT_NO_FATAL_FAILURE(expect_defined(pool, scratch, {M, 20, 0}, Layout::columns, Layout::rows,
                                           MatmulMode::overwrite, true));
    ASSERT_NO_FATAL_FAILURE(
        expect_defined(pool, scratch, {M, 20, 0}, Layout::rows, Layout::rows, MatmulMode::accumulate, false));
    ASSERT_NO_FATAL_FAILURE(
        expect_defined(pool, scratch, {M, 0, 5}, Layout::rows, Layout::rows, MatmulMode::overwrite, false));
  }
  ASSERT_NO_FATAL_FAILURE(
      expect_defined(pool, scratch, {0, 20, 5}, Layout::rows, Layout::rows, MatmulMode::overwrite, false));
}

TEST(Matmul, LargeProductsCutIntoBlocksHoldToo) {
  Arena scratch;
  ThreadPool pool(2);
  // More of B than is packed at once: blocks of columns, then blocks of k.
  struct Large {
    Case s;
    Layout a, b;
  };
  for (const Large& large : {Large{{700, 6000, 1030}, Layout::rows, Layout::columns},
                             Large{{1400, 1100, 4100}, Layout::columns, Layout::rows}}) {
    const auto [M, N, K] = large.s;
    const Matrix A = random_matrix(M, K, large.a, 1), B = random_matrix(K, N, large.b, 2);
    Output c(M, N, 0.5f), before(M, N, 0.5f);
    matmul(pool, scratch, M, N, K, A.view, B.view, c.data(), c.ldc, MatmulMode::accumulate);
    EXPECT_TRUE(c.guards_hold());
    const Random random(4, 0);
    for (uint64_t i = 0; i < 3000; ++i) {
      const auto m = static_cast<int64_t>(random.below(2 * i, static_cast<uint64_t>(M)));
      const auto n = static_cast<int64_t>(random.below(2 * i + 1, static_cast<uint64_t>(N)));
      ASSERT_TRUE(same_bits(c.at(m, n), defined_value(A, B, m, n, K, before.at(m, n), false)))
          << m << "," << n;
    }
  }
}

TEST(Matmul, IsNearTheProductInDoublePrecision) {
  Arena scratch;
  ThreadPool pool(2);
  const int64_t M = 100, N = 90, K = 2000;
  const Matrix A = random_matrix(M, K, Layout::rows, 1), B = random_matrix(K, N, Layout::columns, 2);
  Output c(M, N, kNan);
  matmul(pool, scratch, M, N, K, A.view, B.view, c.data(), c.ldc);
  double difference = 0, norm = 0;
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double exact = 0;
      for (int64_t k = 0; k < K; ++k) exact += double{A.at(m, k)} * double{B.at(k, n)};
      difference += (c.at(m, n) - exact) * (c.at(m, n) - exact);
      norm += exact * exact;
    }
  }
  EXPECT_LT(std::sqrt(difference / norm), 3e-6);
}

TEST(Matmul, ARowAloneHasTheBitsOfTheRowWithinAnyBatch) {
  Arena scratch;
  ThreadPool pool(2);
  const int64_t N = 75, K = 700, most = 400;
  const Matrix A = random_matrix(most, K, Layout::rows, 1), B = random_matrix(K, N, Layout::columns, 2);
  Output all(most, N, kNan, 0);
  matmul(pool, scratch, most, N, K, A.view, B.view, all.data(), N);
  for (const int64_t M : {1, 2, 3, 9, 14, 15, 100}) {
    for (const int64_t first : {0, 57, 300}) {
      Output part(M, N, kNan, 0);
      matmul(pool, scratch, M, N, K, {A.view.data + first * A.view.row_stride, A.view.row_stride, 1}, B.view,
             part.data(), N);
      for (int64_t m = 0; m < M; ++m)
        for (int64_t n = 0; n < N; ++n)
          ASSERT_TRUE(same_bits(part.at(m, n), all.at(first + m, n))) << M << " " << m;
    }
  }
}

TEST(Matmul, TargetsAndThreadsDoNotChangeABit) {
  Arena scratch;
  for (const Case& s : {Case{1030, 130, 300}, Case{100, 100, 3000}, Case{4, 1000, 500}}) {
    const Matrix A = random_matrix(s.M, s.K, Layout::rows, 1),
                 B = random_matrix(s.K, s.N, Layout::columns, 2);
    std::vector<std::vector<float>> results;
    for (const std::string_view target : simd_target_names()) {
      for (const int threads : {1, 2, 5}) {
        const UseSimdTarget use(target);
        ThreadPool pool(threads);
        Output c(s.M, s.N, kNan);
        matmul(pool, scratch, s.M, s.N, s.K, A.view, B.view, c.data(), c.ldc);
        results.push_back(c.memory);
        EXPECT_TRUE(same_bits(results.front(), results.back())) << target << " with " << threads;
      }
    }
  }
}

// As for the weights of a slow level in a pass that closes none of its blocks.
TEST(Matmul, AProductOverNothingAddsNothing) {
  Arena scratch;
  ThreadPool pool(2);
  const Matrix A = random_matrix(256, 1, Layout::columns, 1), B = random_matrix(1, 512, Layout::rows, 2);
  Output c(256, 512, 3);
  const Output before = c;
  matmul(pool, scratch, 256, 512, 0, A.view, B.view, c.data(), c.ldc, MatmulMode::accumulate);
  EXPECT_TRUE(same_bits(c.memory, before.memory));
  matmul(pool, scratch, 256, 512, 0, A.view, B.view, c.data(), c.ldc);
  for (int64_t m = 0; m < 256; ++m)
    for (int64_t n = 0; n < 512; ++n) ASSERT_EQ(c.at(m, n), 0);
}

// So many rows that B would be packed for all threads.
TEST(Matmul, AProductOverNothingOfManyRowsEnds) {
  Arena scratch;
  ThreadPool pool(2);
  const Matrix A = random_matrix(1400, 1, Layout::columns, 1), B = random_matrix(1, 20, Layout::rows, 2);
  Output c(1400, 20, 3);
  const Output before = c;
  matmul(pool, scratch, 1400, 20, 0, A.view, B.view, c.data(), c.ldc, MatmulMode::accumulate);
  EXPECT_TRUE(same_bits(c.memory, before.memory));
}

TEST(Matmul, TwoHalvesOfKGiveTheBitsOfOnePass) {
  Arena scratch;
  ThreadPool pool(2);
  const int64_t M = 130, N = 70, K = 1000;
  const Matrix A = random_matrix(M, K, Layout::columns, 1), B = random_matrix(K, N, Layout::rows, 2);
  Output whole(M, N, kNan);
  matmul(pool, scratch, M, N, K, A.view, B.view, whole.data(), whole.ldc);
  for (const int64_t half : {1, 255, 256, 500, 999}) {
    Output parts(M, N, kNan);
    matmul(pool, scratch, M, N, half, A.view, B.view, parts.data(), parts.ldc);
    const MatrixView a_rest = {A.view.data + half * A.view.col_stride, A.view.row_stride, A.view.col_stride};
    const MatrixView b_rest = {B.view.data + half * B.view.row_stride, B.view.row_stride, B.view.col_stride};
    matmul(pool, scratch, M, N, K - half, a_rest, b_rest, parts.data(), parts.ldc, MatmulMode::accumulate);
    EXPECT_TRUE(same_bits(whole.memory, parts.memory)) << half;
  }
}

TEST(Matmul, RepeatedCallsTakeNoMoreMemoryAndLeaveTheScratchAsItWas) {
  Arena scratch;
  ThreadPool pool(2);
  const Matrix A = random_matrix(600, 300, Layout::rows, 1), B = random_matrix(300, 200, Layout::columns, 2);
  Output c(600, 200, kNan);
  scratch.allocate(1000);
  const int64_t before = scratch.in_use();
  int64_t peak = 0;
  for (int turn = 0; turn < 3; ++turn) {
    matmul(pool, scratch, 600, 200, 300, A.view, B.view, c.data(), c.ldc);
    EXPECT_EQ(scratch.in_use(), before);
    if (turn == 0) peak = scratch.peak();
    EXPECT_EQ(scratch.peak(), peak);
  }
}

TEST(Matmul, NanAndInfinityStayInTheirRowsAndColumns) {
  Arena scratch;
  ThreadPool pool(2);
  Matrix A = random_matrix(20, 30, Layout::rows, 1, 0), B = random_matrix(30, 40, Layout::rows, 2, 0);
  A.memory[5 * 30 + 7] = std::numeric_limits<float>::infinity();
  B.memory[9 * 40 + 39] = kNan;
  Output c(20, 40, 0.0f);
  matmul(pool, scratch, 20, 40, 30, A.view, B.view, c.data(), c.ldc);
  for (int64_t m = 0; m < 20; ++m)
    for (int64_t n = 0; n < 40; ++n) EXPECT_EQ(std::isfinite(c.at(m, n)), m != 5 && n != 39) << m << "," << n;
}

TEST(Matmul, APackedSizeThatOverflowsIsAnError) {
  EXPECT_THROW(packed_size(int64_t{1} << 40, int64_t{1} << 40), Error);
  EXPECT_EQ(packed_size(3, 17), 96);
}

// Of single numbers, each of which waits for the one before.
double multiply_adds_a_second_of_a_chain() {
  constexpr int64_t kSteps = 5'000'000;
  volatile float number = 0.5f;
  const float by = number;
  float sum = by;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < kSteps; ++i) sum = sum * by + by;
  number = sum;
  return kSteps / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(MachinePeak, IsFarAboveAChainOfSingleMultiplyAdds) {
  ThreadPool pool(1);
  const double peak = measure_matrix_peak(pool);
  EXPECT_GT(peak, 8 * 2 * multiply_adds_a_second_of_a_chain());
  EXPECT_LT(peak, 1e13);
}

TEST(MachinePeak, BandwidthsArePositive) {
  ThreadPool pool(2);
  EXPECT_GT(measure_bandwidth(pool), 1e8);
  EXPECT_GT(measure_read_bandwidth(pool), 1e8);
}

}  // namespace
}  // namespace harmonic
