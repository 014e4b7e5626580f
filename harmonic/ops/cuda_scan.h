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
};

// Of a thread that goes from tile to tile: so many tiles' numbers are asked for before the first is used.
inline constexpr int kTilesAhead = 32;

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
      // Where there is no tile the last is asked for again: with a branch around each they would be waited
      // for one after the other.
      const auto tile_at = [&](int64_t at) {
        const int64_t there = at < count ? at : count - 1;
        return begin + (reversed ? count - 1 - there : there);
      };
#pragma unroll
      for (int k = 0; k < kTilesAhead; ++k) {
        decays[k] = decay(tile_at(done + k), i);
        sums[k] = added(tile_at(done + k), i);
      }
#pragma unroll
      for (int k = 0; k < kTilesAhead; ++k) {
        if (done + k >= count) continue;
        before(tile_at(done + k), i, s);
        s = decays[k] * s + sums[k];
      }
    }
    after(b, i, s);
  });
}

// How the tiles of a recurrence over rows of channels hand on their states within one launch, so that inputs
// are read once: decoupled look-back (Merrill and Garland, 2016). It takes for granted, as others do, that a
// card starts blocks in the order of their numbers, so that the tiles before a block's own belong to blocks
// that run or are done. A block tells what its tile does to a state (a decay and a sum), then looks back for
// the nearest tile whose state is known and goes forward from there, tile by tile: the same operations in the
// same order as those tiles do, so that the result does not depend on which is found. What is told of a tile
// and channel is one word, zero before: its effect, which its state then replaces.
struct LookBack {
  static constexpr int kChannels = kWarpSize;
  static constexpr int kWindow = 32;  // tiles that are looked at together

  uint64_t* words = nullptr;  // [tiles in the order of the recurrence, channels]
  int64_t count = 0, channels = 0, blocks_across = 0;

  // Without words where no segment has more than one tile: nothing is handed on then.
  LookBack(Context& context, const ScanTiles& tiles, int64_t of_channels)
      : count(tiles.count), channels(of_channels), blocks_across((of_channels + kChannels - 1) / kChannels) {
    if (tiles.alone) return;
    const int64_t bytes = count * channels * static_cast<int64_t>(sizeof(uint64_t));
    words = static_cast<uint64_t*>(context.scratch.tensor(count, channels, DType::f64).data);
    fill_zero(words, 1, bytes, bytes);
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

  // The upper half is a decay, which is never below zero and whose sign says that it has been told; or, of a
  // state, what no decay is but one that is not a number, whose states are none either.
  static constexpr uint32_t kTold = 1u << 31, kIsState = 0xffffffffu;
  __device__ static uint64_t state_word(float state) { return uint64_t{kIsState} << 32 | bits_of(state); }
  __device__ static uint64_t effect_word(float decay, float added) {
    return uint64_t{kTold | bits_of(decay)} << 32 | bits_of(added);
  }
  __device__ static bool is_state(uint64_t word) { return static_cast<uint32_t>(word >> 32) == kIsState; }

  // What the threads of a block tell each other meanwhile.
  struct Shared {
    bool found;
    uint64_t words[kWindow][kChannels];
  };
  // Tells what a tile does to a state, as soon as that is known: tiles that come later may go on with it. By
  // the first warp of its block, whose lanes have a channel each. A segment's first tile need not: it tells a
  // state.
  __device__ void announce(const Place& place, float own_decay, float own_added) const {
    const int64_t c = place.across * kChannels + threadIdx.x;
    if (words && c < channels) tell(words + place.tile * channels + c, effect_word(own_decay, own_added));
  }

  // The state that enters a tile, for the first warp of its block, which has announced what the tile does to
  // it if it is not one that `starts` from a state. By all threads.
  __device__ float enter(Shared& shared, const Place& place, bool starts, float start, float own_decay,
                         float own_added) const {
    if (!words) return start;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize,
              lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t n = place.tile, c = place.across * kChannels + lane;
    const bool there = c < channels;
    float s = start;
    if (!starts) {
      do {
        look(shared, n, c, warp, lane);
        __syncthreads();
        if (warp == 0) {
          const int nearest = there ? nearest_state(shared, n, lane) : 0;
          const bool found = __ballot_sync(kAllLanes, nearest < 0) == 0;
          if (found && there) s = forward(shared, nearest, lane);
          if (lane == 0) shared.found = found;
        }
        __syncthreads();
      } while (!shared.found);
    }
    if (warp == 0 && there) tell(words + n * channels + c, state_word(after(s, own_decay, own_added)));
    return s;
  }

 private:
  // The state that leaves a tile: everywhere rounded alike.
  __device__ static float after(float s, float decay, float added) { return fmaf(decay, s, added); }

  __device__ void look(Shared& shared, int64_t n, int64_t c, int warp, int lane) const {
    const int warps = static_cast<int>(blockDim.x) / kWarpSize;
    for (int back = warp; back < kWindow; back += warps) {
      const int64_t at = (n - 1 - back) * channels + c;
      shared.words[back][lane] = back < n && c < channels ? told(words + at) : 0;
    }
  }

  // How many tiles back there is a state, all between having told their effects; -1 if there is none yet. A
  // segment's first tile tells its state at once, so that no other segment's is found.
  __device__ static int nearest_state(const Shared& shared, int64_t n, int lane) {
    for (int back = 0; back < kWindow && back < n; ++back) {
      if (is_state(shared.words[back][lane])) return back;
      if (shared.words[back][lane] == 0) break;
    }
    return -1;
  }

  __device__ static float forward(const Shared& shared, int nearest, int lane) {
    float s = float_of(static_cast<uint32_t>(shared.words[nearest][lane]));
    for (int back = nearest - 1; back >= 0; --back) {
      const uint64_t effect = shared.words[back][lane];
      s = after(s, float_of(static_cast<uint32_t>(effect >> 32) & ~kTold),
                float_of(static_cast<uint32_t>(effect)));
    }
    return s;
  }
};

}  // namespace harmonic::cuda
