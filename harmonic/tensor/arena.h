// Where activations live: blocks of memory handed out in order and taken back together.
#pragma once

#include <memory>
#include <vector>

#include "harmonic/tensor/memory_source.h"
#include "harmonic/tensor/tensor.h"

namespace harmonic {

// Allocation is a bump of a pointer; memory is returned by rewinding to a mark, never piece by piece. The
// blocks are kept and reused, so that a loop that rewinds each turn takes nothing more from the system after
// its first turns. Each new block of the program's memory is at least as large as all before it, and when
// none of it is in use, one takes the place of several: whatever the order of pieces, there come to be as
// many pages as were ever in use at once. Not thread-safe. Memory is uninitialised and 64-byte aligned.
//
// With a source, tensors lie in its memory, where a device reaches them; what allocate() gives is always the
// program's own.
class Arena {
 public:
  explicit Arena(MemorySource* source = nullptr) : source_(source) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  // Where tensors come from now on. Nothing may have been allocated.
  void draw_from(MemorySource* source);
  MemorySource* source() const { return source_; }

  void* allocate(int64_t bytes) { return allocate_in(blocks_[0], bytes); }
  template <typename T>
  T* allocate_array(int64_t count) {
    return static_cast<T*>(allocate(count * static_cast<int64_t>(sizeof(T))));
  }
  // Memory for numbers that a device reads or writes.
  void* allocate(int64_t bytes, MemoryUse use);
  // A fresh contiguous tensor, elements uninitialised.
  Tensor tensor(int64_t rows, int64_t cols, DType dtype, MemoryUse use = MemoryUse::tensors) {
    return {allocate(rows * cols * size_of(dtype), use), rows, cols, cols, dtype, device()};
  }
  // The program writes the zeros: for what is made once.
  Tensor zeros(int64_t rows, int64_t cols, DType dtype);
  // Gives tensors memory that have their rows and columns alone, one after the other in one piece, so that
  // neighbours may be treated together (joined()): the program writes zeros between them. Returns the piece
  // as one row, null where there are no tensors.
  Tensor side_by_side(const std::vector<Tensor*>& tensors, DType dtype);

 private:
  static constexpr int kKinds = 3;  // of blocks: the program's, and the source's two

 public:
  struct Mark {
    size_t block[kKinds] = {};
    int64_t used[kKinds] = {}, total = 0;
  };
  Mark mark() const;
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
  struct Blocks {
    std::vector<Block> all;
    size_t current = 0;  // index of the block in use
    int64_t used = 0;    // bytes used of it
  };
  Device device() const { return source_ ? Device::cuda : Device::cpu; }
  void* allocate_in(Blocks& blocks, int64_t bytes);
  Block new_block(const Blocks& blocks, int64_t bytes) const;
  int64_t own_bytes() const;
  void unite();
  MemoryUse use_of(const Blocks& blocks) const {
    return &blocks == &blocks_[1] ? MemoryUse::tensors : MemoryUse::shared;
  }

  MemorySource* source_;
  Blocks blocks_[kKinds];
  int64_t united_ = 0;  // bytes of the block that is to take the place of several
  int64_t total_ = 0, peak_ = 0;
};

// One row of all numbers from the first of `before` to the last of `next`, where these lie side by side, with
// zeros between them alone; else null.
Tensor joined(const Tensor& before, const Tensor& next);

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
