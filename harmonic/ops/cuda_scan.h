// How the recurrences go over time on a device: in three passes. Every tile of rows first finds what it would
// make of a state of zeros, and by how much a state that enters it decays; then one thread for each number of
// a state goes from tile to tile; then every tile is computed from the state that enters it. Backward is the
// same from the last tile to the first. No sum depends on which tile was computed first.
#pragma once

#include <vector>

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {

struct ScanTile {
  int64_t row = 0;  // the first
  int32_t rows = 0, segment = 0;
};

// The tiles of all segments, in order, where kernels can read them.
struct ScanTiles {
  const ScanTile* tiles = nullptr;
  const int64_t* first = nullptr;  // [segments + 1], of a segment's tiles
  int64_t count = 0, segments = 0;
  bool one_each = true;  // every segment is one tile

  // A segment without rows has no tile, or one without rows where each is to have one at least.
  ScanTiles(const Segments& of, int64_t rows_a_tile, bool at_least_one = false) : segments(of.count) {
    std::vector<ScanTile> all;
    std::vector<int64_t> begin;
    for (int64_t b = 0; b < of.count; ++b) {
      begin.push_back(static_cast<int64_t>(all.size()));
      const auto add = [&](int64_t row) {
        all.push_back({row, static_cast<int32_t>(std::min(rows_a_tile, of.begin(b + 1) - row)),
                       static_cast<int32_t>(b)});
      };
      for (int64_t r = of.begin(b); r < of.begin(b + 1); r += rows_a_tile) add(r);
      if (at_least_one && of.length(b) == 0) add(of.begin(b));
      one_each = one_each && static_cast<int64_t>(all.size()) == begin.back() + 1;
    }
    count = static_cast<int64_t>(all.size());
    begin.push_back(count);
    tiles = staged(all.data(), count);
    first = staged(begin.data(), of.count + 1);
  }

  __device__ bool is_last(int64_t tile) const { return first[tiles[tile].segment + 1] == tile + 1; }
};

// Of a thread that goes from tile to tile: so many tiles' numbers are asked for before the first is used.
inline constexpr int kTilesAhead = 8;

// For numbers i < width of the state of each segment, in the order of time: before(tile, i, s) is told the
// state that enters a tile; s = decay(tile, i) * s + added(tile, i); after(segment, i, s) the last.
template <typename Start, typename Decay, typename Added, typename Before, typename After>
void scan_over_tiles(const ScanTiles& tiles, int64_t width, bool reversed, Start start, Decay decay,
                     Added added, Before before, After after) {
  for_each(tiles.segments * width, [=] __device__(int64_t n) {
    const int64_t b = n / width, i = n % width;
    const int64_t begin = tiles.first[b], count = tiles.first[b + 1] - begin;
    float s = start(b, i);
    for (int64_t done = 0; done < count; done += kTilesAhead) {
      float decays[kTilesAhead], sums[kTilesAhead];
#pragma unroll
      for (int k = 0; k < kTilesAhead; ++k) {
        const int64_t at = done + k;
        if (at >= count) continue;
        const int64_t tile = begin + (reversed ? count - 1 - at : at);
        decays[k] = decay(tile, i);
        sums[k] = added(tile, i);
      }
#pragma unroll
      for (int k = 0; k < kTilesAhead; ++k) {
        const int64_t at = done + k;
        if (at >= count) continue;
        before(begin + (reversed ? count - 1 - at : at), i, s);
        s = decays[k] * s + sums[k];
      }
    }
    after(b, i, s);
  });
}

}  // namespace harmonic::cuda
