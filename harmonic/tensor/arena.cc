#include "harmonic/tensor/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "harmonic/base/checked.h"

namespace harmonic {
namespace {

constexpr int64_t kBlockBytes = 8 << 20;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kAlignment = 64;

}  // namespace

void Arena::draw_from(MemorySource* source) {
  HARMONIC_ASSERT(std::all_of(blocks_, blocks_ + kKinds, [](const Blocks& b) { return b.all.empty(); }));
  source_ = source;
}

void Arena::release() {
  for (Blocks& blocks : blocks_) {
    for (const Block& block : blocks.all) {
      if (&blocks == &blocks_[0]) {
        ::munmap(block.data, static_cast<size_t>(block.size));
      } else {
        source_->release(block.data, use_of(blocks));
      }
    }
    blocks.all.clear();
  }
  united_ = 0;
  clear();
  reset_peak();
}

void* Arena::allocate(int64_t bytes, MemoryUse use) {
  if (!source_) return allocate(bytes);
  return allocate_in(blocks_[use == MemoryUse::tensors ? 1 : 2], bytes);
}

int64_t Arena::own_bytes() const {
  int64_t bytes = 0;
  for (const Block& block : blocks_[0].all) bytes += block.size;
  return bytes;
}

Arena::Block Arena::new_block(const Blocks& blocks, int64_t bytes) const {
  const int64_t least = std::max(kBlockBytes, round_up(bytes, kHugePage));
  if (&blocks != &blocks_[0]) return {static_cast<char*>(source_->allocate(least, use_of(blocks))), least};
  // Pages that are not written take no memory. Where the system counts them all the same, it may have the
  // least.
  for (int64_t size = std::max({least, own_bytes(), united_});; size = least) {
    void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data != MAP_FAILED) {
      ::madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);  // a hint: fewer page faults
      return {static_cast<char*>(data), size};
    }
    if (size == least) fail("out of memory: {} bytes were needed: {}", bytes, std::strerror(errno));
  }
}

// One block is to come for all of the program's.
void Arena::unite() {
  united_ = own_bytes();
  for (const Block& block : blocks_[0].all) ::munmap(block.data, static_cast<size_t>(block.size));
  blocks_[0].all.clear();
}

void* Arena::allocate_in(Blocks& blocks, int64_t bytes) {
  HARMONIC_ASSERT(bytes >= 0);
  bytes = round_up(std::max<int64_t>(bytes, 1), kAlignment);
  while (blocks.current < blocks.all.size() && blocks.used + bytes > blocks.all[blocks.current].size) {
    ++blocks.current;
    blocks.used = 0;
  }
  if (blocks.current == blocks.all.size()) {
    blocks.all.push_back(new_block(blocks, bytes));
    blocks.used = 0;
  }
  void* result = blocks.all[blocks.current].data + blocks.used;
  blocks.used += bytes;
  total_ += bytes;
  peak_ = std::max(peak_, total_);
  return result;
}

Tensor Arena::zeros(int64_t rows, int64_t cols, DType dtype) {
  Tensor result = tensor(rows, cols, dtype);
  std::memset(result.data, 0, static_cast<size_t>(rows * cols * size_of(dtype)));
  return result;
}

Tensor Arena::side_by_side(const std::vector<Tensor*>& tensors, DType dtype) {
  const auto bytes_of = [&](const Tensor& tensor) { return tensor.rows * tensor.cols * size_of(dtype); };
  if (tensors.empty()) return {};
  int64_t total = 0;
  for (const Tensor* tensor : tensors) total += round_up(bytes_of(*tensor), kAlignment);
  const Tensor whole = this->tensor(1, total / size_of(dtype), dtype);
  auto* at = static_cast<char*>(whole.data);
  for (Tensor* tensor : tensors) {
    *tensor = {at, tensor->rows, tensor->cols, tensor->cols, dtype, whole.device};
    const int64_t bytes = bytes_of(*tensor), room = round_up(bytes, kAlignment);
    std::memset(at + bytes, 0, static_cast<size_t>(room - bytes));
    at += room;
  }
  return whole;
}

Tensor joined(const Tensor& before, const Tensor& next) {
  const int64_t each = size_of(before.dtype);
  const auto* begin = static_cast<const char*>(before.data);
  const auto* middle = static_cast<const char*>(next.data);
  if (next.dtype != before.dtype || !before.contiguous() || !next.contiguous() ||
      begin + round_up(before.size() * each, kAlignment) != middle)
    return {};
  const int64_t count = (middle - begin) / each + next.size();
  return {before.data, 1, count, count, before.dtype, before.device};
}

void Arena::forget(void* data, int64_t bytes) {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data));
  const int64_t begin = round_up(address, page), end = (address + bytes) / page * page;
  // Where the system refuses, the memory is merely not returned.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(end - begin), MADV_DONTNEED);
}

Arena::Mark Arena::mark() const {
  Mark mark;
  for (int i = 0; i < kKinds; ++i) {
    mark.block[i] = blocks_[i].current;
    mark.used[i] = blocks_[i].used;
  }
  mark.total = total_;
  return mark;
}

void Arena::rewind(const Mark& mark) {
  for (int i = 0; i < kKinds; ++i) {
    blocks_[i].current = mark.block[i];
    blocks_[i].used = mark.used[i];
  }
  total_ = mark.total;
  const Blocks& own = blocks_[0];
  if (own.all.size() > 1 && own.current == 0 && own.used == 0) unite();
}

}  // namespace harmonic
