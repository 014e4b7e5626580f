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
constexpr int64_t kGrowth = 64 << 20;  // of what may be written; it takes memory as it is touched

int64_t aligned(int64_t bytes) { return round_up(std::max<int64_t>(bytes, 1), kAlignment); }

[[noreturn]] void fail_for_memory(int64_t bytes) {
  fail("out of memory: {} bytes were needed: {}", bytes, std::strerror(ENOMEM));
}

}  // namespace

void Arena::draw_from(MemorySource* source) {
  HARMONIC_ASSERT(!own_.mapping && blocks_[0].all.empty() && blocks_[1].all.empty());
  source_ = source;
}

void Arena::release() {
  if (own_.mapping) ::munmap(own_.mapping, static_cast<size_t>(own_.reserved + kHugePage));
  own_ = {};
  for (const MemoryUse use : {MemoryUse::tensors, MemoryUse::shared}) {
    Blocks& blocks = blocks_[static_cast<int>(use)];
    for (const Block& block : blocks.all) source_->release(block.data, use);
    blocks.all.clear();
  }
  clear();
  reset_peak();
}

// As many addresses as the machine has memory, or as many of them as the process may have.
void Arena::reserve() {
  own_.reserved = round_up(int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE), kHugePage);
  void* mapping = MAP_FAILED;
  for (; own_.reserved >= kHugePage; own_.reserved = round_up(own_.reserved / 2, kHugePage)) {
    mapping = ::mmap(nullptr, static_cast<size_t>(own_.reserved + kHugePage), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping != MAP_FAILED || own_.reserved == kHugePage) break;
  }
  if (mapping == MAP_FAILED) fail_for_memory(kHugePage);
  own_.mapping = static_cast<char*>(mapping);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(mapping));
  own_.data = own_.mapping + (round_up(address, kHugePage) - address);
  // A hint: fewer page faults where it is taken.
  ::madvise(own_.data, static_cast<size_t>(own_.reserved), MADV_HUGEPAGE);
}

void Arena::count(int64_t bytes) {
  total_ += bytes;
  peak_ = std::max(peak_, total_);
}

void* Arena::allocate(int64_t bytes) {
  HARMONIC_ASSERT(bytes >= 0);
  bytes = aligned(bytes);
  if (!own_.mapping) reserve();
  if (bytes > own_.writable - own_.used) {
    if (bytes > own_.reserved - own_.used) fail_for_memory(bytes);
    const int64_t writable = std::min(own_.reserved, round_up(own_.used + bytes, kGrowth));
    if (::mprotect(own_.data + own_.writable, static_cast<size_t>(writable - own_.writable),
                   PROT_READ | PROT_WRITE) != 0)
      fail_for_memory(bytes);
    own_.writable = writable;
  }
  void* result = own_.data + own_.used;
  own_.used += bytes;
  count(bytes);
  return result;
}

void* Arena::allocate(int64_t bytes, MemoryUse use) {
  return source_ ? allocate_of_source(use, bytes) : allocate(bytes);
}

void* Arena::allocate_of_source(MemoryUse use, int64_t bytes) {
  HARMONIC_ASSERT(bytes >= 0);
  bytes = aligned(bytes);
  Blocks& blocks = blocks_[static_cast<int>(use)];
  while (blocks.current < blocks.all.size() && blocks.used + bytes > blocks.all[blocks.current].size) {
    ++blocks.current;
    blocks.used = 0;
  }
  if (blocks.current == blocks.all.size()) {
    const int64_t size = std::max(kBlockBytes, round_up(bytes, kHugePage));
    blocks.all.push_back({static_cast<char*>(source_->allocate(size, use)), size});
    blocks.used = 0;
  }
  void* result = blocks.all[blocks.current].data + blocks.used;
  blocks.used += bytes;
  count(bytes);
  return result;
}

Tensor Arena::zeros(int64_t rows, int64_t cols, DType dtype) {
  Tensor result = tensor(rows, cols, dtype);
  std::memset(result.data, 0, static_cast<size_t>(rows * cols * size_of(dtype)));
  return result;
}

void Arena::side_by_side(const std::vector<Tensor*>& tensors, DType dtype) {
  const auto bytes_of = [&](const Tensor& tensor) { return tensor.rows * tensor.cols * size_of(dtype); };
  if (tensors.empty()) return;
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
  return {.own = own_.used,
          .block = {blocks_[0].current, blocks_[1].current},
          .used = {blocks_[0].used, blocks_[1].used},
          .total = total_};
}

void Arena::rewind(const Mark& mark) {
  own_.used = mark.own;
  for (int i = 0; i < 2; ++i) {
    blocks_[i].current = mark.block[i];
    blocks_[i].used = mark.used[i];
  }
  total_ = mark.total;
}

}  // namespace harmonic
