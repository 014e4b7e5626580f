#include "harmonic/model/state.h"

#include "harmonic/base/checked.h"

namespace harmonic {

StateField StateLayout::add(std::string name, int64_t size, bool cache) {
  int64_t& numbers = cache ? cached_ : numbers_;
  const StateField field{numbers, size, cache};
  numbers = checked_add(numbers, size, "numbers of a state");
  fields_.push_back({std::move(name), field});
  return field;
}

void copy_state_rows(const StateRows& from, const StateRows& to) {
  const auto bytes = static_cast<size_t>(from.layout->bytes_before_caches());
  for (int64_t b = 0; b < from.count; ++b) {
    std::memcpy(to.row(b), from.row(b), bytes);
    if (from.caches && to.caches && from.caches != to.caches)
      std::memcpy(to.caches + b * to.cache_stride, from.caches + b * from.cache_stride,
                  static_cast<size_t>(from.cache_bytes()));
  }
}

StateRows make_state_rows(Arena& arena, const StateLayout& layout, int64_t count) {
  const int64_t bytes = checked_mul(count, layout.bytes(), "bytes of a batch's states");
  // Caches are read row by row at every token: they belong near the device.
  void* blocks = arena.allocate(bytes, layout.has_caches() ? MemoryUse::tensors : MemoryUse::shared);
  std::memset(blocks, 0, static_cast<size_t>(bytes));
  StateRows rows(blocks, count, layout);
  rows.source = arena.source();
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
