// Where activations live: blocks of memory handed out in order and taken back together.
#pragma once

#include <memory>
#include <vector>

#include "harmonic/tensor/tensor.h"

namespace harmonic {

// Allocation is a bump of a pointer; memory is returned by rewinding to a mark, never piece by piece. The
// blocks are kept and reused, so that a loop that rewinds each turn takes nothing more from the system after
// its first turn. Not thread-safe. Memory is uninitialised and 64-byte aligned.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  void* allocate(int64_t bytes);
  template <typename T>
  T* allocate_array(int64_t count) {
    return static_cast<T*>(allocate(count * static_cast<int64_t>(sizeof(T))));
  }
  // A fresh contiguous tensor, elements uninitialised.
  Tensor tensor(int64_t rows, int64_t cols, DType dtype) {
    return {allocate(rows * cols * size_of(dtype)), rows, cols, cols, dtype, Device::cpu};
  }
  Tensor zeros(int64_t rows, int64_t cols, DType dtype);

  struct Mark {
    size_t block = 0;
    int64_t used = 0, total = 0;
  };
  Mark mark() const { return {current_, used_, total_}; }
  void rewind(const Mark& mark);
  // Gives the whole pages within a piece that was handed out back to the system. What it held is lost; the
  // piece counts as in use until it is rewound.
  void forget(void* data, int64_t bytes);
  void clear() { rewind({}); }
  // Gives the memory back to the system and forgets the peak; nothing may be in use.
  void release();

  int64_t in_use() const { return total_; }  // bytes since the start, gaps at the ends of blocks not counted
  int64_t peak() const { return peak_; }     // the largest in_use() so far
  void reset_peak() { peak_ = total_; }

 private:
  struct Block {
    char* data;
    int64_t size;
  };
  std::vector<Block> blocks_;
  size_t current_ = 0;  // index of the block in use
  int64_t used_ = 0;    // bytes used of it
  int64_t total_ = 0, peak_ = 0;
};

// Rewinds on leaving a scope: for an op's scratch memory.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace harmonic
