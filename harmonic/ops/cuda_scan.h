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
  bool is_first = false, is_last = false;  // of the segment's
};

// The tiles of all segments, in order, where kernels can read them.
struct ScanTiles {
  const ScanTile* tiles = nullptr;
  const int64_t* first = nullptr;  // [segments + 1], of a segment's tiles
  int64_t count = 0, segments = 0;
  bool one_each = true;  // every segment is one tile
  bool alone = true;     // no segment has more than one

  // A segment without rows has no tile, or one without rows where each is to have one at least.
  ScanTiles(const Segments& of, int64_t rows_a_tile, bool at_least_one = false) : segments(of.count) {
    std::vector<ScanTile> all;
    std::vector<int64_t> begin;
    for (int64_t b = 0; b < of.count; ++b) {
      begin.push_back(static_cast<int64_t>(all.size()));
      const auto add = [&](int64_t row) {
        const int64_t end = of.begin(b + 1), rows = std::min(rows_a_tile, end - row);
        all.push_back({row, static_cast<int32_t>(rows), static_cast<int32_t>(b), row == of.begin(b),
                       row + rows == end});
      };
      for (int64_t r = of.begin(b); r < of.begin(b + 1); r += rows_a_tile) add(r);
      if (at_least_one && of.length(b) == 0) add(of.begin(b));
      one_each = one_each && static_cast<int64_t>(all.size()) == begin.back() + 1;
      alone = alone && static_cast<int64_t>(all.size()) <= begin.back() + 1;
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

// How the tiles of a recurrence over rows of channels hand on their states within one launch, so that inputs
// are read once: decoupled look-back (Merrill and Garland, 2016). Blocks start in the order of their numbers,
// so that the tiles before a block's own belong to blocks that run or are done. A block tells what its tile
// does to a state (a decay and a sum), then looks back for the nearest tile whose state is known and goes
// forward from there, tile by tile: the same operations in the same order as those tiles do, so that the
// result does not depend on which is found.
struct LookBack {
  static constexpr int kChannels = kWarpSize;
  static constexpr uint32_t kEffectKnown = 1, kStateKnown = 2;

  uint32_t* words = nullptr;  // what is known of each block's tile and channels
  float *decay = nullptr, *added = nullptr, *after = nullptr;  // [tiles, channels]
  int64_t count = 0, channels = 0, blocks_across = 0;

  // Without words where no segment has more than one tile: nothing is handed on then.
  LookBack(Context& context, const ScanTiles& tiles, int64_t of_channels)
      : count(tiles.count), channels(of_channels), blocks_across((of_channels + kChannels - 1) / kChannels) {
    if (tiles.alone) return;
    const int64_t bytes = blocks() * static_cast<int64_t>(sizeof(uint32_t));
    words = static_cast<uint32_t*>(context.scratch.tensor(1, blocks(), DType::i32).data);
    fill_zero(words, 1, bytes, bytes);
    decay = scratch_floats(context, count * channels);
    added = scratch_floats(context, count * channels);
    after = scratch_floats(context, count * channels);
  }

  int64_t blocks() const { return count * blocks_across; }

  // Which tile, counted in the order of the recurrence, and which of its blocks of channels this block has.
  struct Place {
    int64_t tile, across;
  };
  __device__ Place place() const {
    const int64_t tile = quotient(blockIdx.x, blocks_across);
    return {tile, blockIdx.x - tile * blocks_across};
  }

  // What the threads of a block tell each other meanwhile.
  struct Shared {
    int64_t nearest;
    float decays[kWarpSize][kChannels], sums[kWarpSize][kChannels];
  };
  // The state that enters a tile, for the first warp of its block, whose lanes have a channel each and know
  // what the tile does to it. `tile_at(n)` is the n-th tile in the order of the recurrence; a segment's first
  // `starts` from a state. By all threads.
  template <typename TileAt>
  __device__ float enter(Shared& shared, const Place& place, bool starts, float start, float own_decay,
                         float own_added, TileAt tile_at) const {
    if (!words) return start;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize,
              lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t n = place.tile, c = place.across * kChannels + lane;
    uint32_t* known = words + place.across;  // of tile 0
    const bool there = c < channels;
    const auto at = [&](int64_t k) { return tile_at(k) * channels + c; };
    const auto tell = [&](uint32_t what) {
      __syncwarp();
      if (lane == 0) publish(known + n * blocks_across, what);
    };
    float s = start;
    if (!starts) {
      if (warp == 0) {
        if (there) {
          decay[at(n)] = own_decay;
          added[at(n)] = own_added;
        }
        tell(kEffectKnown);
        const int64_t nearest = find_state(known, n, lane);
        __syncwarp();
        if (lane == 0) shared.nearest = nearest;
        if (there) s = read_shared_by_blocks(after + at(nearest));
      }
      __syncthreads();
      const int warps = static_cast<int>(blockDim.x) / kWarpSize;
      for (int64_t first = shared.nearest + 1; first < n; first += kWarpSize) {
        const int held = n - first < kWarpSize ? static_cast<int>(n - first) : kWarpSize;
        for (int k = warp; k < held && there; k += warps) {
          shared.decays[k][lane] = read_shared_by_blocks(decay + at(first + k));
          shared.sums[k][lane] = read_shared_by_blocks(added + at(first + k));
        }
        __syncthreads();
        for (int k = 0; warp == 0 && there && k < held; ++k)
          s = shared.decays[k][lane] * s + shared.sums[k][lane];
        __syncthreads();
      }
    }
    if (warp == 0) {
      if (there) after[at(n)] = own_decay * s + own_added;
      tell(kStateKnown);
    }
    return s;
  }

 private:
  // The nearest tile before n whose state is known, when all between have told their effects. A segment's
  // first tile tells its state at once, so that no other segment's is found. By a warp.
  __device__ int64_t find_state(const uint32_t* known, int64_t n, int lane) const {
    for (int64_t last = n - 1;;) {
      const int64_t k = last - lane;
      const uint32_t what = k >= 0 ? published(known + k * blocks_across) : kStateKnown;
      const uint32_t with_state = ballot(what == kStateKnown), with_nothing = ballot(what == 0);
      const uint32_t nearer = with_state == 0 ? kAllLanes : (with_state & (0 - with_state)) - 1;
      if ((with_nothing & nearer) != 0) continue;
      if (with_state != 0) return last - lowest_bit(with_state);
      last -= kWarpSize;
    }
  }
};

}  // namespace harmonic::cuda
