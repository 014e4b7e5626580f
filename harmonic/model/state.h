// State is a value: everything a model remembers of a text, in one contiguous block.
//
// A block is the position (tokens seen, u64), then numbers in the backend's dtype, then caches: numbers too,
// of which a text's tokens have rows of their own, so that a text's first tokens need none. The model's
// configuration decides the layout. Copying, comparing, hashing and saving are operations on bytes, and take
// of a cache those rows that the text has. A block of zeros is the state before a document's first token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/autograd/functions.h"

namespace harmonic {

// A run of numbers within a state.
struct StateField {
  int64_t offset = 0, size = 0;
  bool cache = false;  // the offset counts from the first cache
};

// What a block is made of, for copying: the bytes before the caches, and where each cache's rows lie.
struct BlockShape {
  struct Cache {
    int64_t offset, rows, row_bytes;  // bytes, from the first cache
  };
  int64_t bytes_before_caches = 8, bytes = 8;
  std::vector<Cache> caches;

  // Calls use(offset, bytes) for the pieces of a block that a text of so many tokens has written.
  template <typename Use>
  void each_used(uint64_t tokens, const Use& use) const {
    use(int64_t{0}, bytes_before_caches);
    for (const Cache& cache : caches)
      use(bytes_before_caches + cache.offset,
          static_cast<int64_t>(std::min(tokens, static_cast<uint64_t>(cache.rows))) * cache.row_bytes);
  }
  // Copies a block. Rows of `to` that the text does not have are left as they are: nobody reads them.
  void copy(const void* from, void* to) const;
};

class StateLayout {
 public:
  explicit StateLayout(DType dtype) : dtype_(dtype) {}

  // Reserves `size` numbers; `name` is for people.
  StateField add(std::string name, int64_t size);
  // Reserves a cache of `rows` rows of `width` numbers; token t of a text has row t % rows.
  StateField add_cache(std::string name, int64_t rows, int64_t width);

  struct Named {
    std::string name;
    StateField field;
  };
  const std::vector<Named>& fields() const { return fields_; }
  DType dtype() const { return dtype_; }
  // Bytes of a block, and of the part of it before the caches: multiples of 8.
  int64_t bytes() const { return bytes_before_caches() + padded(cached_); }
  int64_t bytes_before_caches() const { return 8 + padded(numbers_); }
  bool has_caches() const { return cached_ > 0; }
  // Shared with the states that are made of it; what is added later makes another.
  std::shared_ptr<const BlockShape> shape() const { return shape_; }

 private:
  StateField add(std::string name, int64_t size, bool cache);

  DType dtype_;
  std::vector<Named> fields_;
  std::shared_ptr<const BlockShape> shape_ = std::make_shared<const BlockShape>();
  int64_t padded(int64_t numbers) const { return (numbers * size_of(dtype_) + 7) / 8 * 8; }

  int64_t numbers_ = 0, cached_ = 0;
};

// One state. A plain value: copied, compared and moved like a string of bytes. Rows of caches take no memory
// before a text has them.
class State {
 public:
  State() = default;
  // That before a document's first token. Throws Error when there is no memory.
  explicit State(const StateLayout& layout) : State(layout.shape()) {}
  State(const State& other) : State(other.shape_) {
    if (shape_) shape_->copy(other.data(), data());
  }
  State(State&&) noexcept = default;
  State& operator=(const State& other) { return *this = State(other); }
  State& operator=(State&&) noexcept = default;

  uint64_t position() const {
    HARMONIC_ASSERT(block_);
    return block_[0];
  }
  int64_t bytes() const { return shape_ ? shape_->bytes : 0; }
  void* data() { return block_.get(); }
  const void* data() const { return block_.get(); }
  std::string_view view() const {
    return {reinterpret_cast<const char*>(block_.get()), static_cast<size_t>(bytes())};
  }
  bool operator==(const State& other) const;

 private:
  explicit State(std::shared_ptr<const BlockShape> shape);

  struct Free {
    void operator()(uint64_t* block) const { std::free(block); }
  };
  std::shared_ptr<const BlockShape> shape_;
  std::unique_ptr<uint64_t[], Free> block_;
};

// The states of a batch, a row each. A view; the memory belongs to whoever made it. Rows are whole blocks,
// one after the other, or what comes before the caches only; these lie elsewhere then, or nowhere.
struct StateRows {
  char* data = nullptr;
  int64_t count = 0, row_bytes = 0;
  const StateLayout* layout = nullptr;
  char* caches = nullptr;  // of the first row; null where there are none
  int64_t cache_stride = 0;
  MemorySource* source = nullptr;  // of the memory; null: the program's own, which no device reaches
  uint64_t* positions = nullptr;   // in the program's memory; null: each at the start of its row

  StateRows() = default;
  // Whole blocks at `blocks`.
  StateRows(void* blocks, int64_t rows, const StateLayout& of)
      : data(static_cast<char*>(blocks)),
        count(rows),
        row_bytes(of.bytes()),
        layout(&of),
        caches(of.has_caches() ? data + of.bytes_before_caches() : nullptr),
        cache_stride(row_bytes) {}
  StateRows(State& state, const StateLayout& of) : StateRows(state.data(), 1, of) {}

  explicit operator bool() const { return data != nullptr; }
  char* row(int64_t b) const { return data + b * row_bytes; }
  uint64_t& position(int64_t b) const {
    return positions ? positions[b] : *reinterpret_cast<uint64_t*>(row(b));
  }
  // The numbers of a field, [count, size]; null when the rows do not have it.
  Tensor field(const StateField& field) const {
    char* first = field.cache ? caches : data;
    if (!first) return {};
    const int64_t element = size_of(layout->dtype());
    return {first + (field.cache ? 0 : 8) + field.offset * element,
            count,
            field.size,
            (field.cache ? cache_stride : row_bytes) / element,
            layout->dtype(),
            source ? Device::cuda : Device::cpu};
  }
  int64_t cache_bytes() const { return layout->bytes() - layout->bytes_before_caches(); }
  void set(int64_t b, const State& state) const {
    HARMONIC_ASSERT(state.bytes() == row_bytes);
    layout->shape()->copy(state.data(), row(b));
  }
  void get(int64_t b, State& state) const {
    HARMONIC_ASSERT(state.bytes() == row_bytes);
    layout->shape()->copy(row(b), state.data());
  }
  // The state before a document's first token.
  void clear(int64_t b) const { std::memset(row(b), 0, static_cast<size_t>(layout->bytes_before_caches())); }
};

// Copies rows, their caches too where both have some. Caches of `from` and `to` are then the same or apart.
void copy_state_rows(const StateRows& from, const StateRows& to);

// Whole blocks of zeros from an arena.
StateRows make_state_rows(Arena& arena, const StateLayout& layout, int64_t count);
// The same for texts that begin, and only go forward: what caches hold is not set, so that they take no
// memory before it is used.
StateRows make_fresh_state_rows(Arena& arena, const StateLayout& layout, int64_t count);
// The same without caches: for texts that are seen from their first token to their last in one pass.
StateRows make_state_rows_without_caches(Arena& arena, const StateLayout& layout, int64_t count);

}  // namespace harmonic
