// How kernels of *_cuda.cu are launched: as functions that run by blocks of threads, or for each of many
// numbers.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <cstdint>

#include "harmonic/ops/cuda_device.h"

namespace harmonic::cuda {

// The memory that a launch asked for.
template <typename T>
__device__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#else
  return static_cast<T*>(cuda_on_cpu::dynamic_shared_memory());
#endif
}

struct Grid {
  int64_t x = 1, y = 1, z = 1;
};
inline constexpr int64_t kMostBlocks = 65535;  // of the grid's second and third dimension
inline constexpr int64_t kDefaultSharedBytes = 48 << 10;

#ifdef __CUDACC__
// A kernel may be put onto the card while the one before it ends, and waits there for what that has written.
__device__ inline void wait_for_the_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
template <int kThreads, int kBlocks, typename F>
__global__ void __launch_bounds__(kThreads, kBlocks) block_kernel(F f) {
  wait_for_the_kernel_before();
  f();
}
template <int kThreads, typename Before, typename F>
__global__ void __launch_bounds__(kThreads) early_block_kernel(Before before, F f) {
  before();
  wait_for_the_kernel_before();
  f();
}
template <typename F>
__global__ void __launch_bounds__(256) flat_kernel(int64_t count, F f) {
  wait_for_the_kernel_before();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) f(i);
}
template <typename Kernel>
void allow_shared(Kernel kernel, int64_t bytes) {
  if (bytes > kDefaultSharedBytes)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
          "shared memory");
}
template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), const dim3& blocks, int threads, int64_t shared_bytes,
                   const Arguments&... arguments) {
  cudaLaunchAttribute overlaps = {};
  overlaps.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlaps.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream();
  config.attrs = &overlaps;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "a launch");
}
#endif

// f() by kThreads threads of every block, which share so many bytes of memory. Registers are to suffice for
// kBlocks of them on a multiprocessor.
template <int kThreads, int kBlocks = 1, typename F>
void launch(const Grid& grid, int64_t shared_bytes, F f) {
  if (grid.x <= 0 || grid.y <= 0 || grid.z <= 0) return;
  HARMONIC_ASSERT(grid.x <= INT32_MAX && grid.y <= kMostBlocks && grid.z <= kMostBlocks);
  const dim3 blocks{static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                    static_cast<unsigned>(grid.z)};
#ifdef __CUDACC__
  const auto kernel = &block_kernel<kThreads, kBlocks, F>;
  allow_shared(kernel, shared_bytes);
  launch_kernel(kernel, blocks, kThreads, shared_bytes, f);
#else
  cuda_on_cpu::launch(blocks, kThreads, shared_bytes, f);
#endif
}

// The same, but that before() may run while kernels before are at work, however many: it may read what none
// that has not been waited for writes, and write shared memory alone. The stand-in shows nothing of that.
template <int kThreads, typename Before, typename F>
void launch_early(const Grid& grid, int64_t shared_bytes, Before before, F f) {
  if (grid.x <= 0) return;
  HARMONIC_ASSERT(grid.x <= INT32_MAX);
  const dim3 blocks{static_cast<unsigned>(grid.x), 1, 1};
#ifdef __CUDACC__
  const auto kernel = &early_block_kernel<kThreads, Before, F>;
  allow_shared(kernel, shared_bytes);
  launch_kernel(kernel, blocks, kThreads, shared_bytes, before, f);
#else
  cuda_on_cpu::launch(blocks, kThreads, shared_bytes, [=] {
    before();
    f();
  });
#endif
}

// f(i) for each i in [0, count), by threads that know nothing of each other.
template <typename F>
void for_each(int64_t count, F f) {
  if (count <= 0) return;
#ifdef __CUDACC__
  constexpr int kThreads = 256;
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  HARMONIC_ASSERT(blocks <= INT32_MAX);
  launch_kernel(&flat_kernel<F>, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, count, f);
#else
  cuda_on_cpu::submit([=] {
    for (int64_t i = 0; i < count; ++i) f(i);
  });
#endif
}

// a / b of numbers that are not negative: a division of 32 bits costs a tenth of one of 64.
__device__ inline int64_t quotient(int64_t a, int64_t b) {
  return (a | b) >> 31 == 0 ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
}

// f(r, c) for each element of so many rows and columns.
template <typename F>
void for_each_element(int64_t rows, int64_t columns, F f) {
  for_each(rows * columns, [=] __device__(int64_t i) {
    const int64_t r = quotient(i, columns);
    f(r, i - r * columns);
  });
}

}  // namespace harmonic::cuda
