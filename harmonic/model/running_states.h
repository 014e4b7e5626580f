// The states of texts that go on together, where the device has them: a step reads one set of rows and writes
// another, and the two change places, so that nothing is copied.
#pragma once

#include "harmonic/model/state.h"

namespace harmonic {

// Not thread-safe. Between steps only, after the device was waited for.
class RunningStates {
 public:
  // Of texts that begin. The layout and the backend must outlive it.
  RunningStates(const StateLayout& layout, const Backend& backend, int64_t count);

  // Of the first `count` texts: before a step, and after it.
  StateRows before(int64_t count) const { return first(sets_[0], count); }
  StateRows after(int64_t count) const { return first(sets_[1], count); }
  // What was after is before from now on.
  void advance() { std::swap(sets_[0], sets_[1]); }

  void set(int64_t b, const State& state);
  void get(int64_t b, State& state) const;
  void move(int64_t from, int64_t to);
  // All texts begin anew.
  void clear();

 private:
  static StateRows first(StateRows rows, int64_t count) {
    HARMONIC_ASSERT(count <= rows.count);
    rows.count = count;
    return rows;
  }
  // Where byte `offset` of a block lies.
  char* at(int64_t b, int64_t offset) const;

  const StateLayout& layout_;
  const Backend& backend_;
  Arena memory_;
  StateRows sets_[2];  // with the same caches
  State moved_;
};

}  // namespace harmonic
