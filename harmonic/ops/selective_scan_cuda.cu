#include "harmonic/ops/cuda_scan.h"
#include "harmonic/ops/selective_scan.h"

namespace harmonic::cuda {
namespace {

constexpr int kNumbers = static_cast<int>(kSelectiveState);
// A thread has a channel, a warp 32 neighbours.
constexpr int kThreads = 64;
// Rows whose states a thread of the way back has at hand, and between which it keeps one.
constexpr int kSubTile = 8;
constexpr int kSubTiles = static_cast<int>(kScanTile) / kSubTile;

// The decays of a channel's numbers in one row.
struct Rates {
  Rows a_log;
  float rate[kNumbers];  // of the channel

  __device__ Rates(const Rows& logs, int64_t c) : a_log(logs) {
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) rate[i] = a_log ? expf(a_log[c][i]) : 1;
  }
  // Where all rates are one, so are all decays.
  __device__ void decays(float delta, float* decay) const {
    const float common = expf(-delta);
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) decay[i] = a_log ? expf(-delta * rate[i]) : common;
  }
};

// The state after a row.
__device__ void advance(float* s, const float* decay, float written, const float* key) {
#pragma unroll
  for (int i = 0; i < kNumbers; ++i) s[i] = decay[i] * s[i] + written * key[i];
}

// What a tile makes of a state: number i of channel c decays by exp(-rate delta), delta the tile's sum.
template <typename Op>
void scan_tiles_of(const Op& op, const ScanTiles& tiles, bool reversed, const Rows& deltas, const Rows& added,
                   const Rows& start, const Rows& before, const Rows& after) {
  const int64_t channels = op.u.cols;
  const Rows a_log = rows_of(op.a_log);
  scan_over_tiles(
      tiles, kSelectiveState * channels, reversed,
      [=] __device__(int64_t b, int64_t n) { return start ? start[b][n] : 0; },
      [=] __device__(int64_t tile, int64_t n) {
        const int64_t i = n / channels, c = n % channels;
        return expf(-deltas[tile][c] * (a_log ? expf(a_log[c][i]) : 1));
      },
      [=] __device__(int64_t tile, int64_t n) { return added[tile][n]; },
      [=] __device__(int64_t tile, int64_t n, float s) { before[tile][n] = s; },
      [=] __device__(int64_t b, int64_t n, float s) {
        if (after) after[b][n] = s;
      });
}

}  // namespace

void run(Context& context, const SelectiveScan& op) {
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols;
  const Rows u = rows_of(op.u), z = rows_of(op.z), dt = rows_of(op.dt), skip = rows_of(op.skip);
  const Rows key = rows_of(op.key), query = rows_of(op.query), a_log = rows_of(op.a_log), y = rows_of(op.y);
  const Rows first = rows_of(op.state_in), last = rows_of(op.state_out);
  Rows borders = rows_of(op.borders);
  if (!tiles.one_each) {
    if (!borders) borders = rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels));
    const Rows deltas = rows_of(scratch_tensor(context, tiles.count, channels));
    const Rows added = rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels));
    for_each(tiles.count * channels, [=] __device__(int64_t j) {
      const int64_t n = j / channels, c = j % channels;
      const ScanTile tile = tiles.tiles[n];
      const Rates rates(a_log, c);
      float s[kNumbers] = {}, decay[kNumbers], sum = 0;
      for (int64_t r = tile.row; r < tile.row + tile.rows; ++r) {
        const float delta = softplus(dt[r][c]);
        sum += delta;
        rates.decays(delta, decay);
        advance(s, decay, delta * u[r][c], key[r]);
      }
      deltas[n][c] = sum;
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) added[n][i * channels + c] = s[i];
    });
    scan_tiles_of(op, tiles, false, deltas, added, first, borders, last);
  }
  const bool from_state = tiles.one_each;
  for_each(tiles.count * channels, [=] __device__(int64_t j) {
    const int64_t n = j / channels, c = j % channels;
    const ScanTile tile = tiles.tiles[n];
    const Rates rates(a_log, c);
    float s[kNumbers], decay[kNumbers];
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      s[i] = from_state ? first[tile.segment][i * channels + c] : borders[n][i * channels + c];
      if (from_state && borders) borders[n][i * channels + c] = s[i];
    }
    const float d = skip[0][c];
    for (int64_t r = tile.row; r < tile.row + tile.rows; ++r) {
      const float delta = softplus(dt[r][c]), in = u[r][c];
      rates.decays(delta, decay);
      advance(s, decay, delta * in, key[r]);
      float read = d * in;
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) read += s[i] * query[r][i];
      y[r][c] = read * silu(z[r][c]);
    }
    if (!tiles.is_last(n)) return;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) last[tile.segment][i * channels + c] = s[i];
  });
}

namespace {

// Of 32 values that each lane of a warp has, lane l is left with the sum over all lanes of number l.
__device__ float sum_across_lanes(float* values) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
#pragma unroll
  for (int half = kWarpSize / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int j = 0; j < half; ++j) {
      const float kept = upper ? values[j + half] : values[j];
      const float given = upper ? values[j] : values[j + half];
      values[j] = kept + __shfl_xor_sync(kAllLanes, given, half);
    }
  }
  return values[0];
}

}  // namespace

void run(Context& context, const SelectiveScanBackward& op) {
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols, rows = op.segments.rows();
  const Rows u = rows_of(op.u), z = rows_of(op.z), dt = rows_of(op.dt), skip = rows_of(op.skip);
  const Rows key = rows_of(op.key), query = rows_of(op.query), a_log = rows_of(op.a_log);
  const Rows borders = rows_of(op.borders), dy = rows_of(op.dy);
  const Rows du = rows_of(op.du), dz = rows_of(op.dz), ddt = rows_of(op.ddt);
  const Rows dkey = rows_of(op.dkey), dquery = rows_of(op.dquery);
  const Rows dskip = rows_of(op.dskip), da_log = rows_of(op.da_log);
  const Rows deltas = rows_of(scratch_tensor(context, tiles.count, channels));
  const Rows added = rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels));
  for_each(tiles.count * channels, [=] __device__(int64_t j) {
    const int64_t n = j / channels, c = j % channels;
    const ScanTile tile = tiles.tiles[n];
    const Rates rates(a_log, c);
    float ds[kNumbers] = {}, decay[kNumbers], sum = 0;
    for (int64_t r = tile.row + tile.rows - 1; r >= tile.row; --r) {
      const float delta = softplus(dt[r][c]), d = dy[r][c] * silu(z[r][c]);
      sum += delta;
      rates.decays(delta, decay);
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) ds[i] = decay[i] * (ds[i] + d * query[r][i]);
    }
    deltas[n][c] = sum;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) added[n][i * channels + c] = ds[i];
  });
  scan_tiles_of(op, tiles, true, deltas, added, rows_of(op.dstate_out), added, rows_of(op.dstate_in));

  // Gradients of keys and queries are sums over channels: first those of each warp's 32.
  const int64_t groups = (channels + kWarpSize - 1) / kWarpSize;
  const int64_t blocks_a_tile = (channels + kThreads - 1) / kThreads;
  float* of_groups = scratch_floats(context, groups * rows * 2 * kSelectiveState);
  const Rows of_skip = deltas;  // free by now
  const Rows of_rates =
      da_log ? rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels)) : Rows{};
  constexpr int64_t kStates = kNumbers * kThreads;  // floats of a state of every thread
  launch<kThreads>({tiles.count * blocks_a_tile}, (kSubTiles + kSubTile) * kStates * 4, [=] __device__() {
    float* kept = dynamic_shared<float>() + threadIdx.x;  // [kSubTiles][kNumbers], kThreads apart
    float* before = kept + kSubTiles * kStates;           // [kSubTile][kNumbers]
    const int64_t n = blockIdx.x / blocks_a_tile, place = blockIdx.x % blocks_a_tile;
    const int64_t own = place * kThreads + threadIdx.x;
    const bool active = own < channels;  // lanes beyond the last channel bring zeros
    const int64_t c = active ? own : channels - 1;
    const int64_t group = own / kWarpSize;
    const ScanTile tile = tiles.tiles[n];
    const Rates rates(a_log, c);
    float s[kNumbers], ds[kNumbers], of_rate[kNumbers] = {}, decay[kNumbers], skipped = 0;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      s[i] = borders[n][i * channels + c];
      ds[i] = added[n][i * channels + c];
    }
    for (int t = 0; t < tile.rows; ++t) {
      if (t % kSubTile == 0)
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) kept[(t / kSubTile * kNumbers + i) * kThreads] = s[i];
      const int64_t r = tile.row + t;
      const float delta = softplus(dt[r][c]);
      rates.decays(delta, decay);
      advance(s, decay, delta * u[r][c], key[r]);
    }
    const float d = skip[0][c];
    for (int sub = (tile.rows - 1) / kSubTile; sub >= 0; --sub) {
      const int begin = sub * kSubTile, count = tile.rows - begin < kSubTile ? tile.rows - begin : kSubTile;
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) s[i] = kept[(sub * kNumbers + i) * kThreads];
      for (int t = 0; t < count; ++t) {
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) before[(t * kNumbers + i) * kThreads] = s[i];
        const int64_t r = tile.row + begin + t;
        const float delta = softplus(dt[r][c]);
        rates.decays(delta, decay);
        advance(s, decay, delta * u[r][c], key[r]);
      }
      for (int t = count - 1; t >= 0; --t) {
        const int64_t r = tile.row + begin + t;
        const float in = u[r][c], gate = z[r][c], raw = dt[r][c], delta = softplus(raw);
        const float gradient = active ? dy[r][c] : 0, inner = gradient * silu(gate);
        rates.decays(delta, decay);
        float read = d * in, of_u = inner * d, of_delta = 0, shared[2 * kNumbers];
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) {
          const float entered = before[(t * kNumbers + i) * kThreads];
          read += s[i] * query[r][i];
          shared[kNumbers + i] = inner * s[i];
          ds[i] += inner * query[r][i];
          shared[i] = active ? ds[i] * delta * in : 0;
          of_u += ds[i] * delta * key[r][i];
          const float decayed = rates.rate[i] * decay[i] * entered;
          of_delta += ds[i] * (in * key[r][i] - decayed);
          of_rate[i] -= ds[i] * delta * decayed;
          ds[i] *= decay[i];
          s[i] = entered;
        }
        skipped += inner * in;
        if (active) {
          dz[r][c] = gradient * read * silu_slope(gate);
          du[r][c] = of_u;
          ddt[r][c] = of_delta * sigmoid(raw);
        }
        const float sum = sum_across_lanes(shared);
        // A block's last warp may have no channel at all.
        if (group < groups) of_groups[(group * rows + r) * 2 * kNumbers + threadIdx.x % kWarpSize] = sum;
      }
    }
    if (!active) return;
    of_skip[n][c] = skipped;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
      if (of_rates) of_rates[n][i * channels + c] = of_rate[i];
  });
  for_each(rows * 2 * kSelectiveState, [=] __device__(int64_t j) {
    const int64_t r = j / (2 * kNumbers), i = j % (2 * kNumbers);
    float sum = 0;
    for (int64_t group = 0; group < groups; ++group) sum += of_groups[(group * rows + r) * 2 * kNumbers + i];
    (i < kNumbers ? dkey[r][i] : dquery[r][i - kNumbers]) = sum;
  });
  sum_columns(
      context, tiles.count, channels, [=] __device__(int64_t n, int64_t c) { return of_skip[n][c]; },
      [=] __device__(int64_t c, float sum) { dskip[0][c] += sum; });
  if (!da_log) return;
  sum_columns(
      context, tiles.count, kSelectiveState * channels,
      [=] __device__(int64_t n, int64_t i) { return of_rates[n][i]; },
      [=] __device__(int64_t i, float sum) { da_log[i % channels][i / channels] += sum; });
}

}  // namespace harmonic::cuda
