// Instructions that CUDA C++ has no words for: the product of a warp's fragments by the matrix units, how
// fragments are read from shared memory, and copies into it that nobody waits for. Every card from compute
// capability 8.0 on has them. On the processor tests/cuda_on_cpu.h stands in for them.
#pragma once

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % kWarpSize); }

// Bits of four bf16 numbers.
struct alignas(8) FourHalves {
  uint32_t at[2];
};

// Two numbers rounded to bf16 (to the nearest, ties to even); the first in the lower half.
__device__ inline uint32_t bf16_pair(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return bf16_of(low) | static_cast<uint32_t>(bf16_of(high)) << 16;
#endif
}

#ifdef __CUDACC__
__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

// Begins to copy 16 bytes to shared memory; both addresses are multiples of 16.
__device__ inline void begin_copy(void* to_shared, const void* from) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to_shared)), "l"(from)
               : "memory");
#else
  cuda_on_cpu::begin_copy(to_shared, from, 16);
#endif
}
// Waits for the copies that this thread began. Others see them after a barrier.
__device__ inline void finish_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  cuda_on_cpu::finish_copies();
#endif
}

// Four matrices of 8 rows of 8 bf16 numbers from shared memory: lane i says where row i % 8 of matrix i / 8
// lies, at a multiple of 16 bytes. It is given of each matrix numbers 2 (i % 4) and the next of row i / 4;
// or, of the transposed matrices, the same.
__device__ inline void load_matrices(uint32_t (&to)[4], const uint16_t* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
#else
  cuda_on_cpu::load_matrices(to, row, false);
#endif
}
__device__ inline void load_transposed_matrices(uint32_t (&to)[4], const uint16_t* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
#else
  cuda_on_cpu::load_matrices(to, row, true);
#endif
}

// sum += a b, of a 16 by 16 and b 16 by 8, bf16 numbers, summed in f32. With g = lane / 4 and t = lane % 4 a
// lane has
//   of a    rows g and g + 8 (a[0], a[1]) of columns 2 t and the next, then (a[2], a[3]) of those 8 further;
//   of b    column g of rows 2 t and the next (b0), then (b1) of those 8 further;
//   of sum  columns 2 t and the next of row g (sum[0], sum[1]), then of row g + 8.
__device__ inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  cuda_on_cpu::multiply_add_bf16(sum, a, b0, b1);
#endif
}

}  // namespace harmonic::cuda
