// How a recurrence is shared among threads: tiles of kScanTile rows of one segment, each computed by one
// thread in two parts. What does not need the state that the tile before leaves is computed at once; the
// rest, less, when that tile is done. So even one text keeps several threads busy, and a thread reads whole
// rows: threads that share rows, each with channels of its own, make memory about half as fast.
#pragma once

#include <thread>

#include "harmonic/ops/decay_scan.h"
#include "harmonic/ops/work_items.h"

namespace harmonic {

struct ScanTile {
  int64_t segment, index;  // the tile's number in its segment
  int64_t tile;            // and among those of all segments
  int64_t begin, rows;     // rows [begin, begin + rows)
  int64_t channel, width;  // channels [channel, channel + width)
};

class ScanTiles {
 public:
  enum class Order { forward, backward };

  // Takes memory from the context's scratch, which must outlive this.
  ScanTiles(Context& context, const Segments& segments, int64_t channels, Order order)
      : pool_(context.pool),
        segments_(segments),
        order_(order),
        // A text alone is worth about three threads; more of them share its channels.
        blocks_(channels, ceil_div(context.pool.threads(), 3 * std::max<int64_t>(1, segments.count))),
        tiles_(scan_tiles(segments)),
        turns_(context.scratch.allocate_array<Turn>(tiles_)),
        first_tile_(context.scratch.allocate_array<int64_t>(segments.count)),
        done_(context.scratch.allocate_array<std::atomic<int64_t>>(segments.count * blocks_.count)) {
    // The first tiles of all segments, then the second ones, ...: where there are several segments, few wait.
    int64_t tile = 0, most = 0;
    for (int64_t b = 0; b < segments.count; ++b) {
      first_tile_[b] = tile;
      const int64_t tiles = ceil_div(segments.length(b), kScanTile);
      tile += tiles;
      most = std::max(most, tiles);
    }
    int64_t* next = context.scratch.allocate_array<int64_t>(most + 1);
    std::fill_n(next, most + 1, 0);
    for (int64_t b = 0; b < segments.count; ++b)
      for (int64_t turn = 0; turn < tiles_of(b); ++turn) ++next[turn + 1];
    for (int64_t turn = 1; turn <= most; ++turn) next[turn] += next[turn - 1];
    for (int64_t b = 0; b < segments.count; ++b)
      for (int64_t turn = 0; turn < tiles_of(b); ++turn) turns_[next[turn]++] = {b, turn};
    for (int64_t i = 0; i < segments.count * blocks_.count; ++i) new (&done_[i]) std::atomic<int64_t>(0);
    workers_ = workers_for(pool_, tiles_ * blocks_.count, segments.rows() * channels);
  }

  int64_t workers() const { return workers_; }
  int64_t width() const { return blocks_.width; }

  // Has the tile before this one left its state? wait() returns when it has.
  class Before {
   public:
    Before(const std::atomic<int64_t>& done, int64_t turn) : done_(done), turn_(turn) {}
    bool is_done() const { return done_.load(std::memory_order_acquire) == turn_; }
    void wait() const {
      for (int spins = 0; !is_done(); ++spins)
        if (spins > kSpins) std::this_thread::yield();
    }

   private:
    static constexpr int kSpins = 2000;
    const std::atomic<int64_t>& done_;
    int64_t turn_;
  };

  // Calls body(tile, before, worker) once for each tile and block of channels; the body must have waited for
  // `before` when it returns. Calls with equal worker never overlap. Threads take tiles in the order in which
  // these wait for each other, so that the one waited for is always being computed.
  template <typename Body>
  void for_each(const Body& body) const {
    parallel_items(pool_, tiles_ * blocks_.count, workers_, [&](int64_t i, int64_t worker) {
      const auto [b, turn] = turns_[i / blocks_.count];
      const int64_t block = i % blocks_.count,
                    index = order_ == Order::forward ? turn : tiles_of(b) - 1 - turn;
      const int64_t first = index * kScanTile;
      std::atomic<int64_t>& done = done_[b * blocks_.count + block];
      body(ScanTile{b, index, first_tile_[b] + index, segments_.begin(b) + first,
                    std::min(kScanTile, segments_.length(b) - first), blocks_.begin(block),
                    blocks_.size(block)},
           Before(done, turn), worker);
      done.store(turn + 1, std::memory_order_release);
    });
  }

 private:
  struct Turn {
    int64_t segment, turn;
  };
  // Blocks of channels of whole cache lines.
  struct Blocks {
    Blocks(int64_t all, int64_t wanted)
        : channels(all),
          width(std::max<int64_t>(64, round_up(ceil_div(all, wanted), 64))),
          count(ceil_div(all, width)) {}
    int64_t begin(int64_t block) const { return block * width; }
    int64_t size(int64_t block) const { return std::min(width, channels - begin(block)); }
    int64_t channels, width, count;
  };
  int64_t tiles_of(int64_t b) const { return ceil_div(segments_.length(b), kScanTile); }

  ThreadPool& pool_;
  const Segments& segments_;
  Order order_;
  Blocks blocks_;
  int64_t tiles_;
  Turn* turns_;
  int64_t* first_tile_;
  std::atomic<int64_t>* done_;
  int64_t workers_;
};

}  // namespace harmonic
