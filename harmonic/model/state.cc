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

StateRows make_state_rows(Arena& arena, const StateLayout& layout, int64_t count) {
  const int64_t bytes = checked_mul(count, layout.bytes(), "bytes of a batch's states");
  void* blocks = arena.allocate(bytes);
  std::memset(blocks, 0, static_cast<size_t>(bytes));
  return {blocks, count, layout};
}

StateRows make_state_rows_without_caches(Arena& arena, const StateLayout& layout, int64_t count) {
  StateRows rows;
  rows.count = count;
  rows.row_bytes = layout.bytes_before_caches();
  rows.layout = &layout;
  const int64_t bytes = checked_mul(count, rows.row_bytes, "bytes of a batch's states");
  rows.data = static_cast<char*>(arena.allocate(bytes));
  std::memset(rows.data, 0, static_cast<size_t>(bytes));
  return rows;
}

}  // namespace harmonic
