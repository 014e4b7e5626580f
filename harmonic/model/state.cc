#include "harmonic/model/state.h"

#include "harmonic/base/checked.h"

namespace harmonic {

void BlockShape::copy(const void* from, void* to) const {
  uint64_t tokens;
  std::memcpy(&tokens, from, sizeof tokens);
  each_used(tokens, [&](int64_t offset, int64_t size) {
    std::memcpy(static_cast<char*>(to) + offset, static_cast<const char*>(from) + offset,
                static_cast<size_t>(size));
  });
}

StateField StateLayout::add(std::string name, int64_t size) { return add(std::move(name), size, false); }

StateField StateLayout::add_cache(std::string name, int64_t rows, int64_t width) {
  const StateField field = add(std::move(name), checked_mul(rows, width, "numbers of a state"), true);
  auto shape = std::make_shared<BlockShape>(*shape_);
  const int64_t element = size_of(dtype_);
  shape->caches.push_back({field.offset * element, rows, width * element});
  shape_ = std::move(shape);
  return field;
}

StateField StateLayout::add(std::string name, int64_t size, bool cache) {
  int64_t& numbers = cache ? cached_ : numbers_;
  const StateField field{numbers, size, cache};
  numbers = checked_add(numbers, size, "numbers of a state");
  fields_.push_back({std::move(name), field});
  auto shape = std::make_shared<BlockShape>(*shape_);
  shape->bytes_before_caches = bytes_before_caches();
  shape->bytes = bytes();
  shape_ = std::move(shape);
  return field;
}

State::State(std::shared_ptr<const BlockShape> shape) : shape_(std::move(shape)) {
  if (!shape_) return;
  // Pages of zeros, which the system gives when they are written to.
  block_.reset(static_cast<uint64_t*>(std::calloc(static_cast<size_t>(shape_->bytes / 8), 8)));
  if (!block_) fail("out of memory: a state of {} bytes was needed", shape_->bytes);
}

bool State::operator==(const State& other) const {
  if (bytes() != other.bytes()) return false;
  if (!shape_) return true;
  bool same = true;
  shape_->each_used(position(), [&](int64_t offset, int64_t size) {
    same = same &&
           std::memcmp(view().data() + offset, other.view().data() + offset, static_cast<size_t>(size)) == 0;
  });
  return same;
}

void copy_state_rows(const StateRows& from, const StateRows& to) {
  const auto bytes = static_cast<size_t>(from.layout->bytes_before_caches());
  for (int64_t b = 0; b < from.count; ++b) {
    std::memcpy(to.row(b), from.row(b), bytes);
    to.position(b) = from.position(b);
    if (from.caches && to.caches && from.caches != to.caches)
      std::memcpy(to.caches + b * to.cache_stride, from.caches + b * from.cache_stride,
                  static_cast<size_t>(from.cache_bytes()));
  }
}

namespace {

StateRows uninitialised_state_rows(Arena& arena, const StateLayout& layout, int64_t count) {
  const int64_t bytes = checked_mul(count, layout.bytes(), "bytes of a batch's states");
  // Caches are read row by row at every token: they belong near the device.
  const MemoryUse use = layout.has_caches() ? MemoryUse::tensors : MemoryUse::shared;
  StateRows rows(arena.allocate(bytes, use), count, layout);
  rows.source = arena.source();
  return rows;
}

}  // namespace

StateRows make_state_rows(Arena& arena, const StateLayout& layout, int64_t count) {
  const StateRows rows = uninitialised_state_rows(arena, layout, count);
  std::memset(rows.data, 0, static_cast<size_t>(count * layout.bytes()));
  return rows;
}

StateRows make_fresh_state_rows(Arena& arena, const StateLayout& layout, int64_t count) {
  const StateRows rows = uninitialised_state_rows(arena, layout, count);
  for (int64_t b = 0; b < count; ++b) rows.clear(b);
  return rows;
}

StateRows make_state_rows_without_caches(Arena& arena, const StateLayout& layout, int64_t count) {
  StateRows rows;
  rows.count = count;
  rows.row_bytes = layout.bytes_before_caches();
  rows.layout = &layout;
  const int64_t bytes = checked_mul(count, rows.row_bytes, "bytes of a batch's states");
  rows.source = arena.source();
  rows.data = static_cast<char*>(arena.allocate(bytes, MemoryUse::shared));
  std::memset(rows.data, 0, static_cast<size_t>(bytes));
  return rows;
}

}  // namespace harmonic
