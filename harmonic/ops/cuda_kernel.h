// What the kernels of *_cuda.cu are written in: rows, and sums across a warp, a block or columns. Compiled by
// nvcc for a card; or by the host's compiler, whose stand-in for CUDA runs the same kernels on the processor
// (tests/cuda_on_cpu.h).
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "harmonic/ops/cuda_device.h"
#include "harmonic/ops/cuda_launch.h"
#include "harmonic/ops/cuda_numbers.h"

namespace harmonic::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// The rows of a tensor.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;
  __device__ float* operator[](int64_t row) const { return data + row * stride; }
  __host__ __device__ explicit operator bool() const { return data != nullptr; }
};
inline Rows rows_of(const Tensor& tensor) {
#ifndef __CUDACC__
  cuda_on_cpu::expect_reachable(tensor.data);
#endif
  return {tensor ? tensor.as<float>() : nullptr, tensor.stride};
}

// Where a gradient goes: written, or added to.
struct GradientRows {
  Rows to;
  bool add = false;
  __host__ __device__ explicit operator bool() const { return static_cast<bool>(to); }
  __device__ void put(int64_t row, int64_t column, float value) const {
    if (!to) return;
    float& number = to[row][column];
    number = add ? number + value : value;
  }
};
inline GradientRows rows_of(const Gradient& gradient) { return {rows_of(gradient.to), gradient.add}; }

// Rows that matrix products alone will read: f32 numbers, or such rounded to bf16.
struct OperandRows {
  float* numbers = nullptr;
  uint16_t* halves = nullptr;
  int64_t stride = 0;
  __device__ void put(int64_t row, int64_t column, float value) const {
    const int64_t at = row * stride + column;
    if (halves) {
      halves[at] = bf16_of(value);
    } else {
      numbers[at] = value;
    }
  }
};
inline OperandRows operand_rows_of(const Tensor& tensor) {
  if (tensor.dtype == DType::f32) return {rows_of(tensor).data, nullptr, tensor.stride};
#ifndef __CUDACC__
  cuda_on_cpu::expect_reachable(tensor.data);
#endif
  HARMONIC_ASSERT(tensor.dtype == DType::bf16);
  return {nullptr, static_cast<uint16_t*>(tensor.data), tensor.stride};
}

// Segments whose offsets a kernel can read.
struct SegmentRows {
  const int64_t* offsets = nullptr;
  int64_t count = 0;
  __device__ int64_t begin(int64_t b) const { return offsets[b]; }
  __device__ int64_t length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  // The segment that a row belongs to; empty ones have none.
  __device__ int64_t of(int64_t row) const {
    int64_t low = 0, high = count;  // offsets[low] <= row < offsets[high]
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (offsets[middle] <= row) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};
inline SegmentRows staged(const Segments& segments) {
  return {staged(segments.offsets, segments.count + 1), segments.count};
}

// What a thread reads or writes at once: 16 bytes that lie together.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T numbers[kCount];
};
template <typename T>
__device__ Pack<T>& pack_at(T* numbers) {
  return *reinterpret_cast<Pack<T>*>(numbers);
}
template <typename T>
__device__ const Pack<T>& pack_at(const T* numbers) {
  return *reinterpret_cast<const Pack<T>*>(numbers);
}
// Whether every row begins where packs do and ends with one.
inline bool lies_in_packs(const Tensor& tensor) {
  const int64_t bytes = size_of(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.cols * bytes % 16 == 0 &&
         (tensor.rows <= 1 || tensor.stride * bytes % 16 == 0);
}

inline bool all_in_packs(std::initializer_list<Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const Tensor& tensor) { return !tensor || lies_in_packs(tensor); });
}

// --- Sums, always in the same order. ---

__device__ inline float warp_sum(float value) {
  for (int by = kWarpSize / 2; by > 0; by /= 2) value += __shfl_xor_sync(kAllLanes, value, by);
  return value;
}
__device__ inline float warp_max(float value) {
  for (int by = kWarpSize / 2; by > 0; by /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, by));
  return value;
}
// Of all threads, for all threads. `across` has a float for each warp; a barrier stands before and after its
// use.
__device__ inline float block_sum(float value, float* across) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) across[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarpSize; ++w) sum += across[w];
  return sum;
}
__device__ inline float block_max(float value, float* across) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) across[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float most = across[0];
  for (unsigned w = 1; w < blockDim.x / kWarpSize; ++w) most = fmaxf(most, across[w]);
  return most;
}

// --- What one block tells others that run at the same time: 64 bits at once, so that nobody sees half. ---

__device__ inline uint64_t told(const uint64_t* word) {
#ifdef __CUDA_ARCH__
  uint64_t value;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
#else
  return *word;
#endif
}
__device__ inline void tell(uint64_t* word, uint64_t value) {
#ifdef __CUDA_ARCH__
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
#else
  *word = value;
#endif
}
// Asks for memory to be brought near, which changes nothing: the cache is that of all multiprocessors.
inline constexpr int kPrefetched = 128;  // bytes that come together
__device__ inline void prefetch(const void* at) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#else
  static_cast<void>(at);
#endif
}
// By all threads of a block: of a row that may be null.
__device__ inline void prefetch_row(const float* row, int64_t columns) {
  const int64_t bytes = row ? columns * static_cast<int64_t>(sizeof(float)) : 0;
  for (int64_t at = kPrefetched * threadIdx.x; at < bytes; at += kPrefetched * blockDim.x)
    prefetch(reinterpret_cast<const char*>(row) + at);
}

// Four neighbours of a row, or fewer at its end, that one thread treats together.
struct Four {
  float numbers[4];
  __device__ float& operator[](int i) { return numbers[i]; }
  __device__ float operator[](int i) const { return numbers[i]; }
};
struct Columns {
  int64_t first;
  int count;
  bool packed;  // every row that is read or written lies in packs
  __device__ Four of(const float* row) const {
    Four four = {};
    if (packed) {
      const Pack<float> pack = pack_at(row + first);
#pragma unroll
      for (int i = 0; i < 4; ++i) four[i] = pack.numbers[i];
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < count) four[i] = row[first + i];
    }
    return four;
  }
  __device__ void put(float* row, const Four& four) const {
    if (packed) {
      Pack<float> pack;
#pragma unroll
      for (int i = 0; i < 4; ++i) pack.numbers[i] = four[i];
      pack_at(row + first) = pack;
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < count) row[first + i] = four[i];
    }
  }
  __device__ void put(const OperandRows& rows, int64_t r, const Four& four) const {
    if (rows.numbers) return put(rows.numbers + r * rows.stride, four);
    uint16_t* to = rows.halves + r * rows.stride + first;
    if (packed) {
      const uint64_t low = bf16_of(four[0]) | static_cast<uint32_t>(bf16_of(four[1])) << 16;
      const uint64_t high = bf16_of(four[2]) | static_cast<uint32_t>(bf16_of(four[3])) << 16;
      *reinterpret_cast<uint64_t*>(to) = high << 32 | low;
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < count) to[i] = bf16_of(four[i]);
  }
  __device__ void put(const GradientRows& rows, int64_t r, Four four) const {
    if (!rows) return;
    if (rows.add) {
      const Four before = of(rows.to[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) four[i] += before[i];
    }
    put(rows.to[r], four);
  }
};

// f(r, columns) for each four columns of each row; all tensors that f reads or writes are named.
template <typename F>
void for_each_four(int64_t rows, int64_t columns, std::initializer_list<Tensor> named, F f) {
  const bool packed = all_in_packs(named);
  for_each_element(rows, (columns + 3) / 4, [=] __device__(int64_t r, int64_t four) {
    const int64_t left = columns - 4 * four;
    f(r, Columns{4 * four, left < 4 ? static_cast<int>(left) : 4, packed});
  });
}

// f(row, lane) for each row, by the lanes of a warp.
template <typename F>
void for_each_row(int64_t rows, F f) {
  constexpr int kWarps = 4;
  launch<kWarps * kWarpSize>({(rows + kWarps - 1) / kWarps}, 0, [=] __device__() {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
    if (row < rows) f(row, static_cast<int>(threadIdx.x % kWarpSize));
  });
}

// Rows that a block of sum_columns adds up.
inline constexpr int64_t kRowsOfSum = 128;
inline int64_t sums_of_rows(int64_t rows) {
  return std::max<int64_t>(1, (rows + kRowsOfSum - 1) / kRowsOfSum);
}

// put(k, c, sum of number(r, c) over the rows r of block k) for each block of rows and column.
template <typename Number, typename Put>
void sum_rows_by_blocks(int64_t rows, int64_t columns, Number number, Put put) {
  constexpr int kColumns = kWarpSize, kParts = 8;
  const int64_t blocks_across = (columns + kColumns - 1) / kColumns;
  launch<kColumns * kParts>({blocks_across * sums_of_rows(rows)}, kColumns * kParts * 4, [=] __device__() {
    auto* parts = dynamic_shared<float>();
    const int64_t k = blockIdx.x / blocks_across;
    const int64_t c = blockIdx.x % blocks_across * kColumns + threadIdx.x % kColumns;
    const int64_t end = (k + 1) * kRowsOfSum < rows ? (k + 1) * kRowsOfSum : rows;
    float sum = 0;
    if (c < columns) {
#pragma unroll 8
      for (int64_t r = k * kRowsOfSum + threadIdx.x / kColumns; r < end; r += kParts) sum += number(r, c);
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= kColumns || c >= columns) return;
#pragma unroll
    for (int part = 1; part < kParts; ++part) sum += parts[part * kColumns + threadIdx.x];
    put(k, c, sum);
  });
}

// add(c, sum over r of value(r, c)) for each column, the rows in an order that their number alone decides:
// sums of blocks of rows first, which are then rows to be added up.
template <typename Value, typename Add>
void sum_columns(Context& context, int64_t rows, int64_t columns, Value value, Add add) {
  if (columns <= 0) return;
  if (rows <= kRowsOfSum) {
    sum_rows_by_blocks(rows, columns, value, [=] __device__(int64_t, int64_t c, float sum) { add(c, sum); });
    return;
  }
  const ArenaScope scope(context.scratch);
  int64_t count = sums_of_rows(rows);
  Rows sums = rows_of(scratch_tensor(context, count, columns));
  const Rows first = sums;
  sum_rows_by_blocks(rows, columns, value,
                     [=] __device__(int64_t k, int64_t c, float sum) { first[k][c] = sum; });
  while (count > kRowsOfSum) {
    const Rows from = sums, to = rows_of(scratch_tensor(context, sums_of_rows(count), columns));
    sum_rows_by_blocks(
        count, columns, [=] __device__(int64_t r, int64_t c) { return from[r][c]; },
        [=] __device__(int64_t k, int64_t c, float sum) { to[k][c] = sum; });
    sums = to;
    count = sums_of_rows(count);
  }
  const Rows last = sums;
  sum_rows_by_blocks(
      count, columns, [=] __device__(int64_t r, int64_t c) { return last[r][c]; },
      [=] __device__(int64_t, int64_t c, float sum) { add(c, sum); });
}

}  // namespace harmonic::cuda
