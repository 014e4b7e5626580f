// State is a value: everything a model remembers of a text, in one contiguous block.
//
// A block is the position (tokens seen, u64) followed by numbers in the backend's dtype, whose layout the
// model's configuration decides. Copying, comparing, hashing and saving are operations on bytes. A block of
// zeros is the state before a document's first token.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/autograd/functions.h"

namespace harmonic {

// A run of numbers within a state.
struct StateField {
  int64_t offset = 0, size = 0;
};

class StateLayout {
 public:
  explicit StateLayout(DType dtype) : dtype_(dtype) {}

  // Reserves `size` numbers; `name` is for people.
  StateField add(std::string name, int64_t size);

  struct Named {
    std::string name;
    StateField field;
  };
  const std::vector<Named>& fields() const { return fields_; }
  DType dtype() const { return dtype_; }
  int64_t numbers() const { return numbers_; }
  // Bytes of a block: the position and the numbers, a multiple of 8.
  int64_t bytes() const { return 8 + (numbers_ * size_of(dtype_) + 7) / 8 * 8; }

 private:
  DType dtype_;
  std::vector<Named> fields_;
  int64_t numbers_ = 0;
};

// One state. A plain value: copied, compared and moved like a string of bytes.
class State {
 public:
  State() = default;
  explicit State(const StateLayout& layout) : block_(static_cast<size_t>(layout.bytes() / 8)) {}

  uint64_t position() const { return block_.at(0); }
  int64_t bytes() const { return static_cast<int64_t>(block_.size() * 8); }
  void* data() { return block_.data(); }
  const void* data() const { return block_.data(); }
  std::string_view view() const { return {reinterpret_cast<const char*>(block_.data()), block_.size() * 8}; }
  bool operator==(const State&) const = default;

 private:
  std::vector<uint64_t> block_;
};

// The states of a batch, a row each. A view; the memory belongs to whoever made it.
struct StateRows {
  char* data = nullptr;
  int64_t count = 0;
  const StateLayout* layout = nullptr;

  explicit operator bool() const { return data != nullptr; }
  char* row(int64_t b) const { return data + b * layout->bytes(); }
  uint64_t& position(int64_t b) const { return *reinterpret_cast<uint64_t*>(row(b)); }
  // The numbers of a field, [count, size]; null when there are no rows of states at all.
  Tensor field(const StateField& field) const {
    if (!data) return {};
    const int64_t element = size_of(layout->dtype());
    return {data + 8 + field.offset * element, count,           field.size,
            layout->bytes() / element,         layout->dtype(), Device::cpu};
  }
  void set(int64_t b, const State& state) const {
    HARMONIC_ASSERT(state.bytes() == layout->bytes());
    std::memcpy(row(b), state.data(), static_cast<size_t>(layout->bytes()));
  }
  void get(int64_t b, State& state) const {
    HARMONIC_ASSERT(state.bytes() == layout->bytes());
    std::memcpy(state.data(), row(b), static_cast<size_t>(layout->bytes()));
  }
};

// Rows of zeros from an arena.
StateRows make_state_rows(Arena& arena, const StateLayout& layout, int64_t count);

}  // namespace harmonic
