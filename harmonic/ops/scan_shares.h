// How the recurrences are shared among threads: items of some channels of one segment, each walked through
// time by one thread.
#pragma once

#include "harmonic/ops/decay_scan.h"
#include "harmonic/ops/work_items.h"

namespace harmonic {

// Some channels of one segment.
struct ScanItem {
  int64_t segment, tile;   // the segment's first tile of kScanTile rows
  int64_t channel, width;  // channels [channel, channel + width)
};

class ScanShares {
 public:
  // `most`: channels of an item at most; `elements`: for the number of threads worth waking. Takes memory
  // from the context's scratch, which must outlive this.
  ScanShares(Context& context, const Segments& segments, int64_t channels, int64_t most, int64_t elements)
      : pool_(context.pool),
        blocks_(context.pool, segments.count, channels, most),
        items_(segments.count * blocks_.count),
        workers_(workers_for(context.pool, items_, elements)),
        first_tile_(context.scratch.allocate_array<int64_t>(segments.count)) {
    int64_t tiles = 0;
    for (int64_t b = 0; b < segments.count; ++b) {
      first_tile_[b] = tiles;
      tiles += ceil_div(segments.length(b), kScanTile);
    }
  }

  int64_t workers() const { return workers_; }
  int64_t width() const { return blocks_.width; }

  // Calls body(item, worker) once for each item; calls with equal worker never overlap.
  template <typename Body>
  void for_each(const Body& body) const {
    parallel_items(pool_, items_, workers_, [&](int64_t i, int64_t worker) {
      const int64_t b = i / blocks_.count, block = i % blocks_.count;
      body(ScanItem{b, first_tile_[b], blocks_.begin(block), blocks_.size(block)}, worker);
    });
  }

 private:
  ThreadPool& pool_;
  ChannelBlocks blocks_;
  int64_t items_, workers_;
  int64_t* first_tile_;
};

}  // namespace harmonic
