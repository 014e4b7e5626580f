// How the work of ops is shared among threads: in elements, rows or items that do not meet, each computed
// whole by whichever thread is free. No result depends on the cut, or on which thread that is.
#pragma once

#include <algorithm>
#include <atomic>

#include "harmonic/base/checked.h"
#include "harmonic/base/thread_pool.h"
#include "harmonic/tensor/arena.h"

namespace harmonic {

constexpr int64_t kElementGrain = 8192;  // fewer elements than this are not worth waking a thread for
constexpr int64_t kCopyGrain = 65536;    // the same where they are only copied or added

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

// The number of threads worth using for `items` items with `elements` elements in all.
inline int64_t workers_for(const ThreadPool& pool, int64_t items, int64_t elements) {
  return std::max<int64_t>(1, std::min({items, int64_t{pool.threads()}, ceil_div(elements, kElementGrain)}));
}

// Calls body(item, worker) once for each item in [0, items); calls with equal worker in [0, workers) never
// overlap, so that a worker may own scratch memory.
template <typename Body>
void parallel_items(ThreadPool& pool, int64_t items, int64_t workers, const Body& body) {
  std::atomic<int64_t> next{0};
  pool.parallel_for(workers, [&](int64_t worker) {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) body(item, worker);
  });
}

// Segments x blocks of channels as items. Channels do not meet, so that the width of a block is free: at most
// `most` (a multiple of 64), whole cache lines, and narrow enough for every thread to have work.
struct ChannelBlocks {
  ChannelBlocks(const ThreadPool& pool, int64_t segments, int64_t all_channels, int64_t most)
      : channels(all_channels) {
    // Wide blocks are kinder to the memory; several for each thread even out segments of unequal length.
    const int64_t wanted = segments <= 1 ? pool.threads() : ceil_div(2 * int64_t{pool.threads()}, segments);
    width = std::clamp<int64_t>(round_up(ceil_div(channels, wanted), 64), 64, std::max<int64_t>(64, most));
    count = ceil_div(channels, width);
  }
  int64_t begin(int64_t block) const { return block * width; }
  int64_t size(int64_t block) const { return std::min(width, channels - begin(block)); }

  int64_t channels, width, count;
};

// Splits the rows [begin, end) at the borders of segments, where segment b owns [first(b), first(b + 1)), and
// calls body(b, begin, end) for each piece that has rows.
template <typename First, typename Body>
void for_each_segment(int64_t count, int64_t begin, int64_t end, const First& first, const Body& body) {
  int64_t low = 0, high = count;  // the segment of `begin` lies in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (first(middle) <= begin ? low : high) = middle;
  }
  for (int64_t b = low; b < count && first(b) < end; ++b) {
    const int64_t from = std::max(begin, first(b)), to = std::min(end, first(b + 1));
    if (from < to) body(b, from, to);
  }
}

}  // namespace harmonic
