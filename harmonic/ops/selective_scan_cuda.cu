#include "harmonic/ops/cuda_scan.h"
#include "harmonic/ops/selective_scan.h"

namespace harmonic::cuda {
namespace {

constexpr int kNumbers = static_cast<int>(kSelectiveState);
// A block has a tile of rows of so many channels, a thread one of them.
constexpr int kThreads = kWarpSize;
// Rows whose inputs a thread asks for together, and whose states it has at hand on the way back.
constexpr int kSubTile = 8;
constexpr int kSubTiles = static_cast<int>(kScanTile) / kSubTile;

// The decays of a channel's numbers in one row.
struct Rates {
  bool differ;
  float rate[kNumbers];  // of the channel

  __device__ Rates(const Rows& a_log, int64_t c) : differ(static_cast<bool>(a_log)) {
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) rate[i] = differ ? expf(a_log[c][i]) : 1;
  }
  // Where all rates are one, so are all decays.
  __device__ void decays(float delta, float* decay) const {
    const float power = -delta * kLog2OfE, common = fast_exp2(power);
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) decay[i] = differ ? fast_exp2(power * rate[i]) : common;
  }
};

// The state after a row.
__device__ void advance(float* s, const float* decay, float written, const float* key) {
#pragma unroll
  for (int i = 0; i < kNumbers; ++i) s[i] = decay[i] * s[i] + written * key[i];
}

// Keys and queries of a tile's rows, for all threads of its block; of rows that are not there, zeros.
struct KeysAndQueries {
  float numbers[kScanTile][2 * kNumbers];
  __device__ const float* key(int t) const { return numbers[t]; }
  __device__ const float* query(int t) const { return numbers[t] + kNumbers; }
  __device__ void load(const ScanTile& tile, const Rows& keys, const Rows& queries) {
    const auto i = static_cast<int>(threadIdx.x);
#pragma unroll 8
    for (int t = 0; t < kScanTile; ++t) {
      float number = 0;
      if (t < tile.rows) number = i < kNumbers ? keys[tile.row + t][i] : queries[tile.row + t][i - kNumbers];
      numbers[t][i] = number;
    }
    __syncthreads();
  }
};
static_assert(kThreads == 2 * kNumbers);

// One input's numbers in the rows of a sub-tile; where there is no row, `otherwise`.
struct Inputs {
  float numbers[kSubTile];
  __device__ float operator[](int t) const { return numbers[t]; }
  __device__ void load(const ScanTile& tile, int sub, const Rows& rows, int64_t c, float otherwise) {
    const int begin = sub * kSubTile;
    const float* number = rows[tile.row + begin] + c;
#pragma unroll
    for (int t = 0; t < kSubTile; ++t, number += rows.stride)
      numbers[t] = begin + t < tile.rows ? *number : otherwise;
  }
};
// A step size of zero: such a row does nothing to a state.
constexpr float kNoStep = -INFINITY;

// The tile, and the channel of a thread; lanes beyond the last channel go along with it and write nothing.
struct Place {
  int64_t n, own, c;
  bool active;
  __device__ Place(int64_t blocks_a_tile, int64_t channels) {
    n = quotient(blockIdx.x, blocks_a_tile);
    own = (blockIdx.x - n * blocks_a_tile) * kThreads + threadIdx.x;
    active = own < channels;
    c = active ? own : channels - 1;
  }
};

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
        const int64_t i = quotient(n, channels), c = n - i * channels;
        return fast_exp(-deltas[tile][c] * (a_log ? fast_exp(a_log[c][i]) : 1));
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
  const int64_t channels = op.u.cols, blocks_a_tile = (channels + kThreads - 1) / kThreads;
  const Rows u_rows = rows_of(op.u), z_rows = rows_of(op.z), dt_rows = rows_of(op.dt),
             skip = rows_of(op.skip);
  const Rows key = rows_of(op.key), query = rows_of(op.query), a_log = rows_of(op.a_log), y = rows_of(op.y);
  const Rows first = rows_of(op.state_in), last = rows_of(op.state_out);
  Rows borders = rows_of(op.borders);
  if (!tiles.one_each) {
    if (!borders) borders = rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels));
    const Rows deltas = rows_of(scratch_tensor(context, tiles.count, channels));
    const Rows added = rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels));
    launch<kThreads>({tiles.count * blocks_a_tile}, sizeof(KeysAndQueries), [=] __device__() {
      auto& keys = *dynamic_shared<KeysAndQueries>();
      const Place at(blocks_a_tile, channels);
      const ScanTile tile = tiles.tiles[at.n];
      Inputs dt, u, next_dt, next_u;
      next_dt.load(tile, 0, dt_rows, at.c, kNoStep);
      next_u.load(tile, 0, u_rows, at.c, 0);
      keys.load(tile, key, query);
      const Rates rates(a_log, at.c);
      float s[kNumbers] = {}, decay[kNumbers], sum = 0;
      for (int sub = 0; sub * kSubTile < tile.rows; ++sub) {
        dt = next_dt;
        u = next_u;
        next_dt.load(tile, sub + 1, dt_rows, at.c, kNoStep);
        next_u.load(tile, sub + 1, u_rows, at.c, 0);
#pragma unroll
        for (int t = 0; t < kSubTile; ++t) {
          const float delta = fast_softplus(dt[t]);
          sum += delta;
          rates.decays(delta, decay);
          advance(s, decay, delta * u[t], keys.key(sub * kSubTile + t));
        }
      }
      if (!at.active) return;
      deltas[at.n][at.c] = sum;
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) added[at.n][i * channels + at.c] = s[i];
    });
    scan_tiles_of(op, tiles, false, deltas, added, first, borders, last);
  }
  const bool from_state = tiles.one_each;
  launch<kThreads>({tiles.count * blocks_a_tile}, sizeof(KeysAndQueries), [=] __device__() {
    auto& keys = *dynamic_shared<KeysAndQueries>();
    const Place at(blocks_a_tile, channels);
    const ScanTile tile = tiles.tiles[at.n];
    Inputs dt, u, z, next_dt, next_u, next_z;
    const auto load_next = [&](int sub) {
      next_dt.load(tile, sub, dt_rows, at.c, kNoStep);
      next_u.load(tile, sub, u_rows, at.c, 0);
      next_z.load(tile, sub, z_rows, at.c, 0);
    };
    load_next(0);
    keys.load(tile, key, query);
    const Rates rates(a_log, at.c);
    float s[kNumbers], decay[kNumbers];
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      s[i] = from_state ? first[tile.segment][i * channels + at.c] : borders[at.n][i * channels + at.c];
      if (from_state && borders && at.active) borders[at.n][i * channels + at.c] = s[i];
    }
    const float d = skip[0][at.c];
    for (int sub = 0; sub * kSubTile < tile.rows; ++sub) {
      dt = next_dt;
      u = next_u;
      z = next_z;
      load_next(sub + 1);
#pragma unroll
      for (int t = 0; t < kSubTile; ++t) {
        const int row = sub * kSubTile + t;
        const float delta = fast_softplus(dt[t]);
        rates.decays(delta, decay);
        advance(s, decay, delta * u[t], keys.key(row));
        float read = d * u[t];
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) read += s[i] * keys.query(row)[i];
        if (at.active && row < tile.rows) y[tile.row + row][at.c] = read * z[t] * fast_sigmoid(z[t]);
      }
    }
    if (!at.active || !tile.is_last) return;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) last[tile.segment][i * channels + at.c] = s[i];
  });
}

namespace {

// Of 32 values that each lane of a warp has, lane l is left with the sum over all lanes of number l. In
// registers: where a value stands is known to the compiler.
template <int kHalf = kWarpSize / 2>
__device__ float sum_across_lanes(float (&values)[kWarpSize]) {
  const bool upper = (static_cast<int>(threadIdx.x) & kHalf) != 0;
#pragma unroll
  for (int j = 0; j < kHalf; ++j) {
    const float kept = upper ? values[j + kHalf] : values[j];
    const float given = upper ? values[j] : values[j + kHalf];
    values[j] = kept + __shfl_xor_sync(kAllLanes, given, kHalf);
  }
  if constexpr (kHalf > 1) return sum_across_lanes<kHalf / 2>(values);
  return values[0];
}

// What a block keeps on the way back: the states before each sub-tile but the last, and before each row but
// the first of the one at hand. So six of them fit a multiprocessor.
struct WayBack {
  KeysAndQueries keys;
  float kept[kSubTiles - 1][kNumbers][kThreads], before[kSubTile - 1][kNumbers][kThreads];
};

}  // namespace

void run(Context& context, const SelectiveScanBackward& op) {
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols, rows = op.segments.rows();
  const int64_t groups = (channels + kThreads - 1) / kThreads;  // of channels, each a block's
  const Rows u_rows = rows_of(op.u), z_rows = rows_of(op.z), dt_rows = rows_of(op.dt),
             skip = rows_of(op.skip);
  const Rows key = rows_of(op.key), query = rows_of(op.query), a_log = rows_of(op.a_log);
  const Rows borders = rows_of(op.borders), dy_rows = rows_of(op.dy);
  const Rows du = rows_of(op.du), dz = rows_of(op.dz), ddt = rows_of(op.ddt);
  const Rows dkey = rows_of(op.dkey), dquery = rows_of(op.dquery);
  const Rows dskip = rows_of(op.dskip), da_log = rows_of(op.da_log);
  const Rows deltas = rows_of(scratch_tensor(context, tiles.count, channels));
  const Rows added = rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels));
  launch<kThreads>({tiles.count * groups}, sizeof(KeysAndQueries), [=] __device__() {
    auto& keys = *dynamic_shared<KeysAndQueries>();
    const Place at(groups, channels);
    const ScanTile tile = tiles.tiles[at.n];
    const int subs = (tile.rows + kSubTile - 1) / kSubTile;
    Inputs dt, z, dy, next_dt, next_z, next_dy;
    const auto load_next = [&](int sub) {
      if (sub < 0) return;
      next_dt.load(tile, sub, dt_rows, at.c, kNoStep);
      next_z.load(tile, sub, z_rows, at.c, 0);
      next_dy.load(tile, sub, dy_rows, at.c, 0);
    };
    load_next(subs - 1);
    keys.load(tile, key, query);
    const Rates rates(a_log, at.c);
    float ds[kNumbers] = {}, decay[kNumbers], sum = 0;
    for (int sub = subs - 1; sub >= 0; --sub) {
      dt = next_dt;
      z = next_z;
      dy = next_dy;
      load_next(sub - 1);
#pragma unroll
      for (int t = kSubTile - 1; t >= 0; --t) {
        const float delta = fast_softplus(dt[t]), d = dy[t] * z[t] * fast_sigmoid(z[t]);
        sum += delta;
        rates.decays(delta, decay);
        const float* read = keys.query(sub * kSubTile + t);
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) ds[i] = decay[i] * (ds[i] + d * read[i]);
      }
    }
    if (!at.active) return;
    deltas[at.n][at.c] = sum;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) added[at.n][i * channels + at.c] = ds[i];
  });
  scan_tiles_of(op, tiles, true, deltas, added, rows_of(op.dstate_out), added, rows_of(op.dstate_in));

  // Gradients of keys and queries are sums over channels: first those of each block's 32.
  float* of_groups = scratch_floats(context, groups * rows * 2 * kSelectiveState);
  const Rows of_skip = deltas;  // free by now
  const Rows of_rates =
      da_log ? rows_of(scratch_tensor(context, tiles.count, kSelectiveState * channels)) : Rows{};
  launch<kThreads>({tiles.count * groups}, sizeof(WayBack), [=] __device__() {
    auto& shared = *dynamic_shared<WayBack>();
    const auto lane = static_cast<int>(threadIdx.x);
    const Place at(groups, channels);
    const int64_t group = at.own / kThreads;
    const ScanTile tile = tiles.tiles[at.n];
    const int subs = (tile.rows + kSubTile - 1) / kSubTile;
    Inputs dt, u, z, dy, next_dt, next_u, next_z, next_dy;
    const auto load_next = [&](int sub) {
      next_dt.load(tile, sub, dt_rows, at.c, kNoStep);
      next_u.load(tile, sub, u_rows, at.c, 0);
    };
    const auto load_all_next = [&](int sub) {
      load_next(sub);
      next_z.load(tile, sub, z_rows, at.c, 0);
      next_dy.load(tile, sub, dy_rows, at.c, 0);
    };
    load_next(0);
    shared.keys.load(tile, key, query);
    const Rates rates(a_log, at.c);
    float s[kNumbers], ds[kNumbers], of_rate[kNumbers] = {}, decay[kNumbers], skipped = 0;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      s[i] = borders[at.n][i * channels + at.c];
      ds[i] = added[at.n][i * channels + at.c];
    }
    for (int sub = 0; sub + 1 < subs; ++sub) {
      dt = next_dt;
      u = next_u;
      load_next(sub + 1);
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) shared.kept[sub][i][lane] = s[i];
#pragma unroll
      for (int t = 0; t < kSubTile; ++t) {
        const float delta = fast_softplus(dt[t]);
        rates.decays(delta, decay);
        advance(s, decay, delta * u[t], shared.keys.key(sub * kSubTile + t));
      }
    }
    load_all_next(subs - 1);
    const float d = skip[0][at.c];
    for (int sub = subs - 1; sub >= 0; --sub) {
      dt = next_dt;
      u = next_u;
      z = next_z;
      dy = next_dy;
      if (sub > 0) load_all_next(sub - 1);
      float first[kNumbers];
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) {
        if (sub + 1 < subs) s[i] = shared.kept[sub][i][lane];
        first[i] = s[i];
      }
#pragma unroll
      for (int t = 0; t < kSubTile; ++t) {
        if (t > 0) {
#pragma unroll
          for (int i = 0; i < kNumbers; ++i) shared.before[t - 1][i][lane] = s[i];
        }
        const float delta = fast_softplus(dt[t]);
        rates.decays(delta, decay);
        advance(s, decay, delta * u[t], shared.keys.key(sub * kSubTile + t));
      }
#pragma unroll
      for (int t = kSubTile - 1; t >= 0; --t) {
        const int row = sub * kSubTile + t;
        const float *k = shared.keys.key(row), *q = shared.keys.query(row);
        const float in = u[t], delta = fast_softplus(dt[t]), gate = fast_sigmoid(z[t]);
        const float gradient = at.active ? dy[t] : 0, inner = gradient * z[t] * gate;
        rates.decays(delta, decay);
        float read = d * in, of_u = inner * d, of_delta = 0, of_row[2 * kNumbers];
#pragma unroll
        for (int i = 0; i < kNumbers; ++i) {
          const float entered = t > 0 ? shared.before[t - 1][i][lane] : first[i];
          read += s[i] * q[i];
          of_row[kNumbers + i] = inner * s[i];
          ds[i] += inner * q[i];
          of_row[i] = at.active ? ds[i] * delta * in : 0;
          of_u += ds[i] * delta * k[i];
          const float decayed = rates.rate[i] * decay[i] * entered;
          of_delta += ds[i] * (in * k[i] - decayed);
          of_rate[i] -= ds[i] * delta * decayed;
          ds[i] *= decay[i];
          s[i] = entered;
        }
        skipped += inner * in;
        const float sum = sum_across_lanes(of_row);
        if (row >= tile.rows) continue;
        const int64_t r = tile.row + row;
        if (at.active) {
          dz[r][at.c] = gradient * read * gate * (1 + z[t] * (1 - gate));
          du[r][at.c] = of_u;
          ddt[r][at.c] = of_delta * fast_sigmoid(dt[t]);
        }
        of_groups[(group * rows + r) * 2 * kNumbers + lane] = sum;
      }
    }
    if (!at.active) return;
    of_skip[at.n][at.c] = skipped;
#pragma unroll
    for (int i = 0; i < kNumbers; ++i)
      if (of_rates) of_rates[at.n][i * channels + at.c] = of_rate[i];
  });
  for_each_element(rows, 2 * kSelectiveState, [=] __device__(int64_t r, int64_t i) {
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
