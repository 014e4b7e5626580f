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

}  // namespace

void Arena::release() {
  for (const Block& block : blocks_) ::munmap(block.data, static_cast<size_t>(block.size));
  blocks_.clear();
  clear();
  reset_peak();
}

void* Arena::allocate(int64_t bytes) {
  HARMONIC_ASSERT(bytes >= 0);
  bytes = round_up(std::max<int64_t>(bytes, 1), 64);
  while (current_ < blocks_.size() && used_ + bytes > blocks_[current_].size) {
    ++current_;
    used_ = 0;
  }
  if (current_ == blocks_.size()) {
    const int64_t size = std::max(kBlockBytes, round_up(bytes, kHugePage));
    void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) fail("out of memory: {} bytes were needed: {}", size, std::strerror(errno));
    ::madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);  // a hint: fewer page faults where it is taken
    blocks_.push_back({static_cast<char*>(data), size});
    used_ = 0;
  }
  void* result = blocks_[current_].data + used_;
  used_ += bytes;
  total_ += bytes;
  peak_ = std::max(peak_, total_);
  return result;
}

Tensor Arena::zeros(int64_t rows, int64_t cols, DType dtype) {
  Tensor result = tensor(rows, cols, dtype);
  std::memset(result.data, 0, static_cast<size_t>(rows * cols * size_of(dtype)));
  return result;
}

void Arena::forget(void* data, int64_t bytes) {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data));
  const int64_t begin = round_up(address, page), end = (address + bytes) / page * page;
  // Where the system refuses, the memory is merely not returned.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(end - begin), MADV_DONTNEED);
}

void Arena::rewind(const Mark& mark) {
  current_ = mark.block;
  used_ = mark.used;
  total_ = mark.total;
}

}  // namespace harmonic
