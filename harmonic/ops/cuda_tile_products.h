// Products of tiles in shared memory, by one warp and into its registers: of bf16 numbers by the matrix units
// (Bf16Products), or of f32 numbers, exact but for the order of sums (F32Products). Both lay out what they
// sum in the same way by rows, so that what is done with it is written once.
//
// A warp has blocks of 16 rows of a matrix of sums. A lane has of each the rows lane / 4 and 8 further, of
// each block of 8 columns two of either row. Which two is each kind's own affair: score_column() of what
// add_rows_by_rows() sums, output_column() of what add_sums_by_rows() does.
#pragma once

#include "harmonic/ops/cuda_mma.h"

namespace harmonic::cuda {

template <int kRowBlocks, int kColumnBlocks>
struct Sums {
  float at[kRowBlocks][kColumnBlocks][4];

  __device__ void clear() {
    for_each([](int, int, int, float& sum) { sum = 0; });
  }
  // f(row of the lane's, column block, its place 0 or 1 there, the number).
  template <typename F>
  __device__ void for_each(F f) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int n = 0; n < kColumnBlocks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) f(2 * m + e / 2, n, e % 2, at[m][n][e]);
  }
};
// The row within the warp's that a lane's is.
__device__ inline int row_in_warp(int row_of_lane) { return row_of_lane * 8 + lane_index() / 4; }

// Rows of kWidth numbers in shared memory, the next one 16 bytes after the end of the last: then the rows
// that lanes read at once lie in different banks.
template <typename Number, int kWidth>
struct SharedRows {
  static constexpr int kStride = kWidth + 16 / static_cast<int>(sizeof(Number));
  __host__ __device__ static constexpr int bytes(int rows) {
    return rows * kStride * static_cast<int>(sizeof(Number));
  }
  Number* data;
  __device__ Number* operator[](int row) const { return data + row * kStride; }
  __device__ SharedRows from_row(int row) const { return {(*this)[row]}; }
  __device__ SharedRows from_column(int column) const { return {data + column}; }
};

// Begins to copy rows that lie one after the other, by all kThreads of a block.
template <int kThreads, int kRows, typename Number, int kWidth>
__device__ inline void begin_copy_of_rows(const SharedRows<Number, kWidth>& to, const Number* from) {
  constexpr int kNumbers = 16 / static_cast<int>(sizeof(Number)), kPieces = kWidth / kNumbers;
  constexpr int kRowsAtOnce = kThreads / kPieces;
  static_assert(kThreads % kPieces == 0);
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  const int column = static_cast<int>(threadIdx.x) % kPieces * kNumbers;
  Number* to_first = to[row] + column;
  const Number* from_first = from + row * kWidth + column;
#pragma unroll
  for (int begin = 0; begin < kRows; begin += kRowsAtOnce)
    if (kRows % kRowsAtOnce == 0 || begin + row < kRows)
      begin_copy(to_first + begin * to.kStride, from_first + begin * kWidth);
}

struct Bf16Products {
  using Number = uint16_t;
  using Four = FourHalves;
  __device__ static Four four(const float (&of)[4]) {
    return {{bf16_pair(of[0], of[1]), bf16_pair(of[2], of[3])}};
  }
  __device__ static int score_column(int block, int place) {
    return block * 8 + lane_index() % 4 * 2 + place;
  }
  __device__ static int output_column(int block, int place) { return score_column(block, place); }

  // sums += a b^T, of 16 M rows of a and 8 N rows of b.
  template <int M, int N, int kWidth>
  __device__ static void add_rows_by_rows(Sums<M, N>& sums, const SharedRows<Number, kWidth>& a,
                                          const SharedRows<Number, kWidth>& b) {
    static_assert(N % 2 == 0 && kWidth % 16 == 0);
    const int lane = lane_index();
    const Number* of_a = a[lane % 16] + lane / 16 * 8;
    const Number* of_b = b[lane / 16 * 8 + lane % 8] + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kWidth; k += 16) {
      uint32_t left[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices(left[m], of_a + m * 16 * a.kStride + k);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t right[4];
        load_matrices(right, of_b + n * 8 * b.kStride + k);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_add(sums.at[m][n], left[m], right[0], right[1]);
          multiply_add(sums.at[m][n + 1], left[m], right[2], right[3]);
        }
      }
    }
  }

  // sums += a b, of what add_rows_by_rows() made, rounded, and the first 8 N columns of b.
  template <int M, int N, int K, int kWidth>
  __device__ static void add_sums_by_rows(Sums<M, N>& sums, const Sums<M, K>& a,
                                          const SharedRows<Number, kWidth>& b) {
    static_assert(N % 2 == 0 && K % 2 == 0);
    const int lane = lane_index();
    const Number* of_b = b[lane % 16] + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; k += 2) {
      uint32_t left[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          left[m][i] = bf16_pair(a.at[m][k + i / 2][i % 2 * 2], a.at[m][k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t right[4];
        load_transposed_matrices(right, of_b + k * 8 * b.kStride + n * 8);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_add(sums.at[m][n], left[m], right[0], right[1]);
          multiply_add(sums.at[m][n + 1], left[m], right[2], right[3]);
        }
      }
    }
  }
};

struct F32Products {
  using Number = float;
  using Four = Pack<float>;
  __device__ static Four four(const float (&of)[4]) { return {{of[0], of[1], of[2], of[3]}}; }
  // Such that the rows of b that a warp reads at once lie side by side.
  __device__ static int score_column(int block, int place) {
    return (block * 2 + place) * 4 + lane_index() % 4;
  }
  // Such that a lane's columns do, by fours.
  __device__ static int output_column(int block, int place) {
    return block / 2 * 16 + lane_index() % 4 * 4 + block % 2 * 2 + place;
  }

  template <int M, int N, int kWidth>
  __device__ static void add_rows_by_rows(Sums<M, N>& sums, const SharedRows<Number, kWidth>& a,
                                          const SharedRows<Number, kWidth>& b) {
    const Number *of_a = a[row_in_warp(0)], *of_b = b[score_column(0, 0)];
#pragma unroll 2
    for (int k = 0; k < kWidth; k += 4) {
      Pack<float> left[2 * M];
#pragma unroll
      for (int r = 0; r < 2 * M; ++r) left[r] = pack_at(of_a + r * 8 * a.kStride + k);
#pragma unroll
      for (int c = 0; c < 2 * N; ++c) {
        const Pack<float> right = pack_at(of_b + c * 4 * b.kStride + k);
#pragma unroll
        for (int r = 0; r < 2 * M; ++r) {
          float& sum = sums.at[r / 2][c / 2][r % 2 * 2 + c % 2];
#pragma unroll
          for (int i = 0; i < 4; ++i) sum += left[r].numbers[i] * right.numbers[i];
        }
      }
    }
  }

  template <int M, int N, int K, int kWidth>
  __device__ static void add_sums_by_rows(Sums<M, N>& sums, const Sums<M, K>& a,
                                          const SharedRows<Number, kWidth>& b) {
    static_assert(N % 2 == 0);
    const int lane = lane_index(), group = lane / 4 * 4;
    const Number* of_b = b.data + lane % 4 * 4;
#pragma unroll
    for (int c = 0; c < 2 * K; ++c) {
#pragma unroll
      for (int owner = 0; owner < 4; ++owner) {
        float left[2 * M];
#pragma unroll
        for (int r = 0; r < 2 * M; ++r)
          left[r] = __shfl_sync(kAllLanes, a.at[r / 2][c / 2][r % 2 * 2 + c % 2], group + owner);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
          const Pack<float> right = pack_at(of_b + (c * 4 + owner) * b.kStride + n * 8);
#pragma unroll
          for (int r = 0; r < 2 * M; ++r)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              sums.at[r / 2][n + i / 2][r % 2 * 2 + i % 2] += left[r] * right.numbers[i];
        }
      }
    }
  }
};

}  // namespace harmonic::cuda
