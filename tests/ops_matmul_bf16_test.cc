// Products in bf16, with each of the instructions that the processor has: the sums of matmul.h, of rounded
// operands, to the bit.
#include <optional>

#include "harmonic/ops/backend.h"
#include "harmonic/ops/device_choice.h"
#include "harmonic/ops/machine_peak.h"
#include "matmul_check.h"

namespace harmonic {
namespace {

class Bf16Matmul : public testing::TestWithParam<Bf16Instructions> {
 protected:
  void SetUp() override {
    if (bf16_instructions() < GetParam()) GTEST_SKIP() << "this processor has no " << name_of(GetParam());
    use_.emplace(GetParam());
  }
  void multiply(ThreadPool& pool, int64_t M, int64_t N, int64_t K, MatrixView A, MatrixView B, Output& c,
                MatmulMode mode = MatmulMode::overwrite) {
    matmul(pool, scratch_, M, N, K, A, B, c.data(), c.ldc, mode, nullptr, Precision::bf16);
  }
  Arena scratch_;

 private:
  std::optional<UseBf16Instructions> use_;
};

INSTANTIATE_TEST_SUITE_P(, Bf16Matmul, testing::Values(Bf16Instructions::pairs, Bf16Instructions::tiles),
                         [](const auto& with) {
                           return std::string(with.param == Bf16Instructions::pairs ? "Pairs" : "Tiles");
                         });

TEST_P(Bf16Matmul, EveryElementIsTheChainOverKOfRoundedOperands) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    for (const Case& s : kCases)
      for (const Layout a : {Layout::rows, Layout::columns, Layout::neither})
        for (const Layout b : {Layout::rows, Layout::columns, Layout::neither})
          ASSERT_NO_FATAL_FAILURE(expect_defined(pool, scratch_, s, a, b, MatmulMode::overwrite,
                                                 (s.M + s.N) % 2 == 0, Precision::bf16));
  }
}

TEST_P(Bf16Matmul, AccumulateAndSubtractStartFromTheOldValues) {
  ThreadPool pool(2);
  for (const Case& s : kCases)
    for (const MatmulMode mode : {MatmulMode::accumulate, MatmulMode::subtract})
      for (const Layout a : {Layout::rows, Layout::columns, Layout::neither})
        ASSERT_NO_FATAL_FAILURE(
            expect_defined(pool, scratch_, s, a, Layout::rows, mode, false, Precision::bf16));
}

TEST_P(Bf16Matmul, AProductOverNothingLeavesTheStart) {
  ThreadPool pool(2);
  for (const int64_t M : {1, 20})
    for (const MatmulMode mode : {MatmulMode::overwrite, MatmulMode::accumulate})
      ASSERT_NO_FATAL_FAILURE(expect_defined(pool, scratch_, {M, 20, 0}, Layout::rows, Layout::rows, mode,
                                             false, Precision::bf16));
}

TEST_P(Bf16Matmul, LargeProductsCutIntoBlocksHoldToo) {
  ThreadPool pool(2);
  struct Large {
    Case s;
    Layout a, b;
  };
  for (const Large& large : {Large{{700, 6000, 1031}, Layout::rows, Layout::columns},
                             Large{{1400, 1100, 4101}, Layout::columns, Layout::rows}}) {
    const auto [M, N, K] = large.s;
    const Matrix A = random_matrix(M, K, large.a, 1), B = random_matrix(K, N, large.b, 2);
    Output c(M, N, 0.5f), before(M, N, 0.5f);
    multiply(pool, M, N, K, A.view, B.view, c, MatmulMode::accumulate);
    EXPECT_TRUE(c.guards_hold());
    const Random random(4, 0);
    for (uint64_t i = 0; i < 3000; ++i) {
      const auto m = static_cast<int64_t>(random.below(2 * i, static_cast<uint64_t>(M)));
      const auto n = static_cast<int64_t>(random.below(2 * i + 1, static_cast<uint64_t>(N)));
      const float expected = defined_value(A, B, m, n, K, before.at(m, n), false, Precision::bf16);
      ASSERT_TRUE(same_bits(c.at(m, n), expected)) << m << "," << n;
    }
  }
}

TEST_P(Bf16Matmul, IsNearTheDoublePrecisionProductOfRoundedOperands) {
  ThreadPool pool(2);
  const int64_t M = 100, N = 90, K = 2001;
  const Matrix A = random_matrix(M, K, Layout::rows, 1), B = random_matrix(K, N, Layout::columns, 2);
  Output c(M, N, kNan);
  multiply(pool, M, N, K, A.view, B.view, c);
  double of_rounded = 0, of_exact = 0, norm = 0;
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double rounded = 0, exact = 0;
      for (int64_t k = 0; k < K; ++k) {
        rounded += reference::rounded_to_bf16(A.at(m, k)) * reference::rounded_to_bf16(B.at(k, n));
        exact += double{A.at(m, k)} * double{B.at(k, n)};
      }
      of_rounded += (c.at(m, n) - rounded) * (c.at(m, n) - rounded);
      of_exact += (c.at(m, n) - exact) * (c.at(m, n) - exact);
      norm += exact * exact;
    }
  }
  EXPECT_LT(std::sqrt(of_rounded / norm), 3e-6);
  EXPECT_LT(std::sqrt(of_exact / norm), 5e-3);
  EXPECT_GT(std::sqrt(of_exact / norm), 1e-4) << "nothing was rounded";
}

TEST_P(Bf16Matmul, RoundsToTheNearestWithTiesToEven) {
  ThreadPool pool(1);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<float, float>> cases = {{1.0f, 1.0f},
                                                      {1.0f + 0x1p-8f, 1.0f},
                                                      {1.0f + 0x1p-8f + 0x1p-20f, 1.0f + 0x1p-7f},
                                                      {1.0f + 3 * 0x1p-8f, 1.0f + 0x1p-6f},
                                                      {-1.0f - 3 * 0x1p-8f, -1.0f - 0x1p-6f},
                                                      {infinity, infinity},
                                                      {std::numeric_limits<float>::max(), infinity},
                                                      {0x1p-140f, 0.0f}};
  for (const auto& [number, rounded] : cases) {
    for (const bool left : {false, true}) {
      const float one = 1;
      Output c(1, 1, kNan);
      multiply(pool, 1, 1, 1, {left ? &number : &one, 1, 1}, {left ? &one : &number, 1, 1}, c);
      EXPECT_EQ(c.at(0, 0), rounded) << number << (left ? " as A" : " as B");
    }
  }
}

TEST_P(Bf16Matmul, NanStaysInItsRow) {
  ThreadPool pool(2);
  Matrix A = random_matrix(20, 31, Layout::rows, 1, 0);
  const Matrix B = random_matrix(31, 40, Layout::rows, 2, 0);
  A.memory[5 * 31 + 30] = kNan;
  Output c(20, 40, 0.0f);
  multiply(pool, 20, 40, 31, A.view, B.view, c);
  for (int64_t m = 0; m < 20; ++m)
    for (int64_t n = 0; n < 40; ++n) EXPECT_EQ(std::isnan(c.at(m, n)), m == 5) << m << "," << n;
}

TEST_P(Bf16Matmul, ARowAloneHasTheBitsOfTheRowWithinAnyBatch) {
  ThreadPool pool(2);
  const int64_t N = 75, K = 701, most = 400;
  const Matrix A = random_matrix(most, K, Layout::rows, 1), B = random_matrix(K, N, Layout::columns, 2);
  Output all(most, N, kNan, 0);
  multiply(pool, most, N, K, A.view, B.view, all);
  for (const int64_t M : {1, 2, 9, 14, 15, 100}) {
    for (const int64_t first : {0, 57, 300}) {
      Output part(M, N, kNan, 0);
      multiply(pool, M, N, K, {A.view.data + first * A.view.row_stride, A.view.row_stride, 1}, B.view, part);
      for (int64_t m = 0; m < M; ++m)
        for (int64_t n = 0; n < N; ++n)
          ASSERT_TRUE(same_bits(part.at(m, n), all.at(first + m, n))) << M << " " << m;
    }
  }
}

TEST_P(Bf16Matmul, ThreadsDoNotChangeABit) {
  for (const Case& s : {Case{1030, 130, 301}, Case{100, 100, 3000}, Case{4, 1000, 500}}) {
    const Matrix A = random_matrix(s.M, s.K, Layout::columns, 1),
                 B = random_matrix(s.K, s.N, Layout::rows, 2);
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      Output c(s.M, s.N, kNan);
      multiply(pool, s.M, s.N, s.K, A.view, B.view, c);
      results.push_back(c.memory);
      EXPECT_TRUE(same_bits(results.front(), results.back())) << threads;
    }
  }
}

TEST_P(Bf16Matmul, TwoPartsOfKGiveTheBitsOfOnePass) {
  ThreadPool pool(2);
  const int64_t M = 130, N = 70, K = 1001;
  const Matrix A = random_matrix(M, K, Layout::columns, 1), B = random_matrix(K, N, Layout::rows, 2);
  Output whole(M, N, kNan);
  multiply(pool, M, N, K, A.view, B.view, whole);
  const bool tiles = GetParam() == Bf16Instructions::tiles;  // which take 32 k together
  for (const int64_t part :
       tiles ? std::vector<int64_t>{32, 512, 992} : std::vector<int64_t>{1, 2, 255, 512, 1000}) {
    Output parts(M, N, kNan);
    multiply(pool, M, N, part, A.view, B.view, parts);
    multiply(pool, M, N, K - part, {A.view.data + part * A.view.col_stride, 1, A.view.col_stride},
             {B.view.data + part * B.view.row_stride, B.view.row_stride, 1}, parts, MatmulMode::accumulate);
    EXPECT_TRUE(same_bits(whole.memory, parts.memory)) << part;
  }
}

// What is packed for decoding: rounded on the way as well.
TEST_P(Bf16Matmul, EveryPackedFormGivesTheBitsOfTheMatrixThatItHolds) {
  ThreadPool pool(2);
  const int64_t N = 75, K = 601;
  for (const DType format : {DType::f32, DType::bf16, DType::i8}) {
    Matrix weight = random_matrix(N, K, Layout::rows, 2, 0);
    const MatrixView B = weight.view.transposed();
    std::vector<float> scales(N), memory(static_cast<size_t>(packed_size(K, N)) + N + 16);
    PackedMatrix packed;
    if (format == DType::f32) {
      packed = pack_matrix(pool, K, N, B, memory.data());
    } else {
      round_rows(pool, N, K, K, format, weight.memory.data(), scales.data());
      packed = pack_narrow_matrix(pool, K, N, B, format, scales.data(), memory.data());
    }
    for (const int64_t M : {1, 9, 50}) {
      const Matrix A = random_matrix(M, K, Layout::rows, 1);
      Output expected(M, N, kNan), found(M, N, kNan);
      multiply(pool, M, N, K, A.view, B, expected);
      matmul_packed(pool, scratch_, M, A.view, packed, found.data(), found.ldc, MatmulMode::overwrite,
                    nullptr, Precision::bf16);
      EXPECT_TRUE(same_bits(expected.memory, found.memory)) << name_of(format) << ", " << M << " rows";
    }
  }
}

TEST_P(Bf16Matmul, ThePeakIsMeasured) {
  ThreadPool pool(1);
  // Of pairs it is twice that of f32 on some processors, half of it on others.
  EXPECT_GT(measure_matrix_peak(pool, Precision::bf16), measure_matrix_peak(pool) / 4);
}

// As on a processor without them: its name, and what to do.
TEST(Bf16Instructions, AreRefusedByNameWhereTheProcessorHasNone) {
  std::string_view without;
  for (const std::string_view target : simd_target_names())
    if (target != "AVX-512") without = target;
  if (without.empty()) GTEST_SKIP() << "every target of this processor may have them";
  const UseSimdTarget use(without);
  EXPECT_FALSE(multiplies_in_bf16());
  ThreadPool pool(1);
  EXPECT_EQ(measure_matrix_peak(pool, Precision::bf16), 0);
  try {
    backend_for("cpu", "bf16");
    FAIL() << "a backend that this processor cannot run";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(processor_name()), std::string::npos) << message;
    EXPECT_NE(message.find("use f32"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace harmonic
