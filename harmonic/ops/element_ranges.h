// How ops on single elements are shared among threads. Each element is computed alone, so that the cut does
// not matter to the bits.
#pragma once

#include <algorithm>

#include "harmonic/base/checked.h"
#include "harmonic/base/thread_pool.h"

namespace harmonic {

constexpr int64_t kElementGrain = 8192;  // fewer elements than this are not worth waking a thread for

// Calls body(row, column, count) for runs of adjacent elements that cover a [rows, cols] matrix once, from
// all threads of the pool. `contiguous`: the rows follow each other without gaps in every tensor concerned;
// then runs go on past the ends of rows, with row = 0 and column up to rows * cols.
template <typename Body>
void parallel_elements(ThreadPool& pool, int64_t rows, int64_t cols, bool contiguous, const Body& body) {
  if (rows == 0 || cols == 0) return;
  if (contiguous) {
    pool.parallel_ranges(rows * cols, kElementGrain,
                         [&](int64_t begin, int64_t end) { body(0, begin, end - begin); });
  } else {
    pool.parallel_ranges(rows, ceil_div(kElementGrain, cols), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) body(row, 0, cols);
    });
  }
}

}  // namespace harmonic
