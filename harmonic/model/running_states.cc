#include "harmonic/model/running_states.h"

#include <cstring>

#include "harmonic/base/checked.h"

namespace harmonic {

RunningStates::RunningStates(const StateLayout& layout, const Backend& backend, int64_t count)
    : layout_(layout), backend_(backend), memory_(backend.memory) {
  char* caches = nullptr;
  const int64_t cache_bytes = layout.bytes() - layout.bytes_before_caches();
  if (layout.has_caches())
    caches = static_cast<char*>(
        memory_.allocate(checked_mul(count, cache_bytes, "bytes of a batch's states"), MemoryUse::tensors));
  for (StateRows& rows : sets_) {
    rows.count = count;
    rows.row_bytes = layout.bytes_before_caches();
    rows.layout = &layout;
    rows.source = backend.memory;
    rows.caches = caches;
    rows.cache_stride = cache_bytes;
    rows.positions = memory_.allocate_array<uint64_t>(count);
    rows.data = static_cast<char*>(memory_.allocate(
        checked_mul(count, rows.row_bytes, "bytes of a batch's states"), MemoryUse::tensors));
  }
  clear();
}

void RunningStates::clear() {
  for (const StateRows& rows : sets_) {
    std::fill_n(rows.positions, rows.count, uint64_t{0});
    const int64_t bytes = rows.count * rows.row_bytes;
    backend_.zero({rows.data, 1, bytes, bytes, DType::i8, backend_.device});
  }
  backend_.synchronize();  // what set() writes comes after it
}

char* RunningStates::at(int64_t b, int64_t offset) const {
  const StateRows& rows = sets_[0];
  return offset < rows.row_bytes ? rows.row(b) + offset
                                 : rows.caches + b * rows.cache_stride + offset - rows.row_bytes;
}

void RunningStates::set(int64_t b, const State& state) {
  const auto* from = static_cast<const char*>(state.data());
  layout_.shape()->each_used(state.position(), [&](int64_t offset, int64_t size) {
    std::memcpy(at(b, offset), from + offset, static_cast<size_t>(size));
  });
  sets_[0].position(b) = state.position();
}

void RunningStates::get(int64_t b, State& state) const {
  auto* to = static_cast<char*>(state.data());
  const uint64_t position = sets_[0].position(b);
  layout_.shape()->each_used(position, [&](int64_t offset, int64_t size) {
    std::memcpy(to + offset, at(b, offset), static_cast<size_t>(size));
  });
  std::memcpy(to, &position, sizeof(position));
}

void RunningStates::move(int64_t from, int64_t to) {
  if (moved_.bytes() == 0) moved_ = State(layout_);
  get(from, moved_);
  set(to, moved_);
}

}  // namespace harmonic
