// Kernels without a card: what a .cu file needs of CUDA, for the host's compiler, which is told to include
// this before the file. A launch runs the blocks of its grid one after the other; the threads of a block are
// fibers that take turns at barriers and shuffles, so that a kernel's logic (indices, barriers, sums across a
// block) is what a card would run. It shows nothing of speed, of races between blocks, or of memory's order.
//
// A kernel that strays is noticed: threads that end while others wait, or a barrier within a flat launch,
// stop the program with a message; shared memory is poisoned before every block, and where a copy is under
// way.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace cuda_on_cpu {

// Of the thread that runs now.
extern dim3 thread_index, block_index, block_size, grid_size;

void barrier();
// Gives every lane of a warp what another lane brought: lane `from` of this thread's warp.
uint64_t exchange(uint64_t value, int from);
void* dynamic_shared_memory();

// Shows to every lane of a warp what each of them brought, by lane, until all have called taken().
const void* const* show(const void* own);
void taken();

// Copies to shared memory that are made as late as a card may make them: when the thread waits for them.
// Until then what is there is poisoned, as if a card had begun.
void begin_copy(void* to_shared, const void* from, size_t bytes);
void finish_copies();
// What the matrix units do (harmonic/ops/cuda_mma.h says what each lane has of a fragment).
void load_matrices(uint32_t (&to)[4], const uint16_t* row, bool transposed);
void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

// Runs body(argument) for every thread of every block.
void run(dim3 grid, int threads, int64_t shared_bytes, void (*body)(const void*), const void* argument);

// Does something in the order of the launches: now or, while a Deferral lives, when complete() is called, as
// a card does it some time later. What is wrong with memory that was given up, read or written meanwhile then
// comes to light.
void submit(std::function<void()> work);
void complete();
class Deferral {
 public:
  Deferral();
  ~Deferral();
  Deferral(const Deferral&) = delete;
  Deferral& operator=(const Deferral&) = delete;
};
bool deferring();

// From begin_recording() on, what is submitted is kept and not done; take_recording() gives it.
using Recording = std::vector<std::function<void()>>;
void begin_recording();
Recording take_recording();

// Memory that kernels reach while launches are deferred; at other times they reach all.
void add_reachable(const void* memory, int64_t bytes);
void remove_reachable(const void* memory);
// Stops the program where they do not.
void expect_reachable(const void* memory);

template <typename F>
void launch(dim3 grid, int threads, int64_t shared_bytes, const F& f) {
  submit([=] {
    run(
        grid, threads, shared_bytes, [](const void* function) { (*static_cast<const F*>(function))(); }, &f);
  });
}

template <typename T>
T shuffle(T value, int from) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() { return static_cast<int>(thread_index.x % 32); }

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::thread_index)
#define blockIdx (::cuda_on_cpu::block_index)
#define blockDim (::cuda_on_cpu::block_size)
#define gridDim (::cuda_on_cpu::grid_size)

// Four of the eight bytes of two words: nibble i of `selected` says which is the i-th.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selected) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>(bytes >> 8 * (selected >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
inline void __syncthreads() { cuda_on_cpu::barrier(); }
inline void __syncwarp() { cuda_on_cpu::exchange(0, cuda_on_cpu::lane()); }
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return cuda_on_cpu::shuffle(value, from & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_on_cpu::shuffle(value, cuda_on_cpu::lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
  const int from = cuda_on_cpu::lane() - static_cast<int>(by);
  return cuda_on_cpu::shuffle(value, from < 0 ? cuda_on_cpu::lane() : from);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned by) {
  const int from = cuda_on_cpu::lane() + static_cast<int>(by);
  return cuda_on_cpu::shuffle(value, from > 31 ? cuda_on_cpu::lane() : from);
}
inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane)
    bits |= static_cast<unsigned>(cuda_on_cpu::shuffle(value, lane)) << lane;
  return bits;
}
inline int __any_sync(unsigned, int predicate) {
  for (int by = 16; by > 0; by /= 2) predicate |= cuda_on_cpu::shuffle(predicate, cuda_on_cpu::lane() ^ by);
  return predicate;
}
