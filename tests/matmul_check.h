// The matrix product's definition (matmul.h) in std::fma, and what tests of products share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "harmonic/base/random.h"
#include "harmonic/ops/bf16_instructions.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/reference.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kGuard = 12345.0f;

enum class Layout { rows, columns, neither };  // which stride is 1

// A matrix in memory that ends where its last element ends.
struct Matrix {
  std::vector<float> memory;
  MatrixView view;
  float at(int64_t r, int64_t c) const { return view.data[r * view.row_stride + c * view.col_stride]; }
};

inline Matrix random_matrix(int64_t rows, int64_t cols, Layout layout, uint64_t seed, int64_t gap = 3) {
  Matrix m;
  switch (layout) {
    case Layout::rows:
      m.view = {nullptr, cols + gap, 1};
      break;
    case Layout::columns:
      m.view = {nullptr, 1, rows + gap};
      break;
    case Layout::neither:
      m.view = {nullptr, cols * 2 + gap, 2};
      break;
  }
  m.memory.assign(rows * cols == 0 ? 0
                                   : static_cast<size_t>((rows - 1) * m.view.row_stride +
                                                         (cols - 1) * m.view.col_stride + 1),
                  kNan);
  m.view.data = m.memory.data();
  const Random random(seed, stream_of("matmul_test"));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      m.memory[static_cast<size_t>(r * m.view.row_stride + c * m.view.col_stride)] =
          static_cast<float>(random.uniform(static_cast<uint64_t>(r * cols + c)) * 2 - 1);
  return m;
}

// C with guards before, after and between its rows.
struct Output {
  int64_t M, N, ldc;
  std::vector<float> memory;
  Output(int64_t rows, int64_t cols, float value, int64_t gap = 5)
      : M(rows), N(cols), ldc(cols + gap), memory(static_cast<size_t>(16 + rows * ldc), kGuard) {
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n)
        at(m, n) = std::isnan(value) ? value : value + static_cast<float>(m - n);
  }
  float* data() { return memory.data() + 16; }
  float& at(int64_t m, int64_t n) { return memory[static_cast<size_t>(16 + m * ldc + n)]; }
  bool guards_hold() {
    for (size_t i = 0; i < 16; ++i)
      if (memory[i] != kGuard) return false;
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = N; n < ldc; ++n)
        if (at(m, n) != kGuard) return false;
    return true;
  }
};

inline bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i])) return false;
  return a.size() == b.size();
}

inline float defined_value(const Matrix& A, const Matrix& B, int64_t m, int64_t n, int64_t K, float start,
                           bool subtract, Precision precision = Precision::f32) {
  const auto operand = [precision](float number) {
    return precision == Precision::bf16 ? static_cast<float>(reference::rounded_to_bf16(number)) : number;
  };
  const auto multiply_add = [&](int64_t k, float sum) {
    const float a = operand(A.at(m, k));
    return std::fma(subtract ? -a : a, operand(B.at(k, n)), sum);
  };
  float c = start;
  if (precision == Precision::f32 || bf16_instructions() == Bf16Instructions::pairs) {
    for (int64_t k = 0; k < K; ++k) c = multiply_add(k, c);
    return c;
  }
  for (int64_t first = 0; first < K; first += 32) {
    float sums[2] = {};
    for (int64_t k = first; k < std::min(K, first + 32); ++k) sums[k % 2] = multiply_add(k, sums[k % 2]);
    c += sums[0] + sums[1];
  }
  return c;
}

struct Case {
  int64_t M, N, K;
};

// Compares one product, packed and not, with the definition.
inline void expect_defined(ThreadPool& pool, Arena& scratch, const Case& s, Layout a_layout, Layout b_layout,
                           MatmulMode mode, bool with_bias, Precision precision = Precision::f32) {
  const Matrix A = random_matrix(s.M, s.K, a_layout, 1), B = random_matrix(s.K, s.N, b_layout, 2);
  const Matrix bias = random_matrix(1, s.N, Layout::rows, 3);
  const float* bias_data = with_bias ? bias.memory.data() : nullptr;
  const float old = mode == MatmulMode::overwrite ? kNan : 0.5f;
  const auto where = [&] {
    return ::testing::Message() << simd_target_name() << " M=" << s.M << " N=" << s.N << " K=" << s.K
                                << " layouts " << static_cast<int>(a_layout) << static_cast<int>(b_layout)
                                << " mode " << static_cast<int>(mode) << " threads " << pool.threads();
  };
  Output direct(s.M, s.N, old), packed(s.M, s.N, old), before(s.M, s.N, old);
  matmul(pool, scratch, s.M, s.N, s.K, A.view, B.view, direct.data(), direct.ldc, mode, bias_data, precision);
  std::vector<float> panels(static_cast<size_t>(packed_size(s.K, s.N)), kNan);
  const PackedMatrix packed_b = pack_matrix(pool, s.K, s.N, B.view, panels.data(), precision);
  matmul_packed(pool, scratch, s.M, A.view, packed_b, packed.data(), packed.ldc, mode, bias_data, precision);
  ASSERT_TRUE(direct.guards_hold() && packed.guards_hold()) << where();
  for (int64_t m = 0; m < s.M; ++m) {
    for (int64_t n = 0; n < s.N; ++n) {
      const float start = mode != MatmulMode::overwrite ? before.at(m, n) : with_bias ? bias.at(0, n) : 0.0f;
      const float expected = defined_value(A, B, m, n, s.K, start, mode == MatmulMode::subtract, precision);
      ASSERT_TRUE(same_bits(direct.at(m, n), expected)) << where() << " at " << m << "," << n;
      ASSERT_TRUE(same_bits(packed.at(m, n), expected)) << where() << " packed, at " << m << "," << n;
    }
  }
}

inline const Case kCases[] = {{1, 1, 1},    {1, 17, 5},    {2, 16, 16},   {3, 50, 33},   {5, 64, 7},
                              {6, 31, 300}, {7, 15, 1},    {8, 129, 64},  {13, 33, 20},  {14, 32, 40},
                              {15, 32, 40}, {16, 1, 257},  {29, 47, 513}, {64, 64, 64},  {65, 95, 260},
                              {127, 1, 3},  {200, 19, 31}, {337, 40, 9},  {700, 20, 17}, {1400, 33, 8},
                              {1, 530, 12}, {40, 1100, 4}, {50, 20, 1100}};

}  // namespace harmonic
