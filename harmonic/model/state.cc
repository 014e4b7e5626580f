#include "harmonic/model/state.h"

#include "harmonic/base/checked.h"

namespace harmonic {

StateField StateLayout::add(std::string name, int64_t size) {
  const StateField field{numbers_, size};
  numbers_ = checked_add(numbers_, size, "numbers of a state");
  fields_.push_back({std::move(name), field});
  return field;
}

StateRows make_state_rows(Arena& arena, const StateLayout& layout, int64_t count) {
  const int64_t bytes = checked_mul(count, layout.bytes(), "bytes of a batch's states");
  StateRows rows{static_cast<char*>(arena.allocate(bytes)), count, &layout};
  std::memset(rows.data, 0, static_cast<size_t>(bytes));
  return rows;
}

}  // namespace harmonic
