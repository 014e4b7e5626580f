// Products of f32 matrices of any size by all threads of a block, and the tables in shared memory that they
// are made of. Products of tiles whose sizes are known beforehand are in cuda_tile_products.h.
#pragma once

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

// put(r, c, sum over k of a(r, k) b(k, c)) for so many rows and columns, by all threads of a block: a thread
// sums kRows by kColumns of them at a time in registers, neighbours having neighbouring columns. What a is
// zero for, masked, adds nothing whatever b is: no token sees what is not a number in a later one.
template <int kRows, int kColumns, bool kMasked = false, typename A, typename B, typename Put>
__device__ void multiply(int rows, int columns, int inner, A a, B b, Put put) {
  const int across = (columns + kColumns - 1) / kColumns, down = (rows + kRows - 1) / kRows;
  for (int n = static_cast<int>(threadIdx.x); n < across * down; n += static_cast<int>(blockDim.x)) {
    const int first_row = n / across * kRows, first_column = n % across;
    int row[kRows], column[kColumns];
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i] = first_row + i < rows ? first_row + i : rows - 1;
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
      column[i] = first_column + i * across < columns ? first_column + i * across : columns - 1;
    float sum[kRows][kColumns] = {};
#pragma unroll 4
    for (int k = 0; k < inner; ++k) {
      float left[kRows], right[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; ++i) left[i] = a(row[i], k);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) right[i] = b(k, column[i]);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          if (!kMasked || left[i] != 0) sum[i][j] += left[i] * right[j];
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        if (first_row + i < rows && first_column + j * across < columns) put(row[i], column[j], sum[i][j]);
  }
}

// Rows of `columns` numbers in shared memory.
struct Table {
  float* data;
  int stride;
  // The rows lie such that a column's are in different banks.
  __host__ __device__ static int stride_of(int columns) { return columns | 1; }
  __host__ __device__ static int floats(int rows, int columns) { return rows * stride_of(columns); }
  __device__ float* operator[](int row) const { return data + row * stride; }
};
// Hands out a block's shared memory.
struct TakeTables {
  float* next;
  __device__ Table operator()(int rows, int columns) {
    const Table table{next, Table::stride_of(columns)};
    next += Table::floats(rows, columns);
    return table;
  }
};
// Fills so many rows of a table, a warp a row: number(r, c).
template <typename Number>
__device__ void fill(const Table& table, int rows, int columns, Number number) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int r = static_cast<int>(threadIdx.x) / kWarpSize; r < rows;
       r += static_cast<int>(blockDim.x) / kWarpSize)
    for (int c = lane; c < columns; c += kWarpSize) table[r][c] = number(r, c);
}

}  // namespace harmonic::cuda
