#include "harmonic/ops/cuda_scan.h"
#include "harmonic/ops/decay_scan.h"

namespace harmonic::cuda {
namespace {

constexpr int kThreads = 128;

// What a row does to the state: s = a s + b u.
struct Step {
  float a, b, closed;  // closed = sigmoid(g) = 1 - a
};
__device__ Step step_of(float g) {
  const float a = sigmoid(-g), closed = sigmoid(g);
  return {a, sqrtf((1 + a) * closed), closed};
}

}  // namespace

void run(Context& context, const DecayScan& op) {
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols;
  const Rows u = rows_of(op.u), z = rows_of(op.z), g = rows_of(op.g), skip = rows_of(op.skip);
  const Rows y = rows_of(op.y), first = rows_of(op.state_in), last = rows_of(op.state_out);
  Rows borders = rows_of(op.borders);
  if (!tiles.one_each) {
    if (!borders) borders = rows_of(scratch_tensor(context, tiles.count, channels));
    const Rows decay = rows_of(scratch_tensor(context, tiles.count, channels));
    const Rows added = rows_of(scratch_tensor(context, tiles.count, channels));
    for_each(tiles.count * channels, [=] __device__(int64_t i) {
      const int64_t n = i / channels, c = i % channels;
      const ScanTile tile = tiles.tiles[n];
      float kept = 1, s = 0;
#pragma unroll 4
      for (int64_t r = tile.row; r < tile.row + tile.rows; ++r) {
        const Step step = step_of(g[r][c]);
        kept *= step.a;
        s = step.a * s + step.b * u[r][c];
      }
      decay[n][c] = kept;
      added[n][c] = s;
    });
    scan_over_tiles(
        tiles, channels, false, [=] __device__(int64_t b, int64_t c) { return first[b][c]; },
        [=] __device__(int64_t n, int64_t c) { return decay[n][c]; },
        [=] __device__(int64_t n, int64_t c) { return added[n][c]; },
        [=] __device__(int64_t n, int64_t c, float s) { borders[n][c] = s; },
        // A segment without rows passes its state on; others' last tile writes theirs below.
        [=] __device__(int64_t b, int64_t c, float s) { last[b][c] = s; });
  }
  const bool from_state = tiles.one_each;
  for_each(tiles.count * channels, [=] __device__(int64_t i) {
    const int64_t n = i / channels, c = i % channels;
    const ScanTile tile = tiles.tiles[n];
    float s = from_state ? first[tile.segment][c] : borders[n][c];
    if (from_state && borders) borders[n][c] = s;
    const float d = skip[0][c];
#pragma unroll 4
    for (int64_t r = tile.row; r < tile.row + tile.rows; ++r) {
      const Step step = step_of(g[r][c]);
      s = step.a * s + step.b * u[r][c];
      y[r][c] = (s + d * u[r][c]) * silu(z[r][c]);
    }
    if (tiles.is_last(n)) last[tile.segment][c] = s;
  });
}

void run(Context& context, const DecayScanBackward& op) {
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols;
  const Rows u = rows_of(op.u), z = rows_of(op.z), g = rows_of(op.g), skip = rows_of(op.skip);
  const Rows borders = rows_of(op.borders), dy = rows_of(op.dy);
  const Rows dlast = rows_of(op.dstate_out), dfirst = rows_of(op.dstate_in), dskip = rows_of(op.dskip);
  const Rows du = rows_of(op.du), dz = rows_of(op.dz), dg = rows_of(op.dg);
  const Rows decay = rows_of(scratch_tensor(context, tiles.count, channels));
  const Rows added = rows_of(scratch_tensor(context, tiles.count, channels));
  for_each(tiles.count * channels, [=] __device__(int64_t i) {
    const int64_t n = i / channels, c = i % channels;
    const ScanTile tile = tiles.tiles[n];
    float kept = 1, ds = 0;
#pragma unroll 4
    for (int64_t r = tile.row + tile.rows - 1; r >= tile.row; --r) {
      const float a = sigmoid(-g[r][c]);
      kept *= a;
      ds = a * (ds + dy[r][c] * silu(z[r][c]));
    }
    decay[n][c] = kept;
    added[n][c] = ds;
  });
  // The gradient of the state after each tile takes the place of what the tile adds.
  scan_over_tiles(
      tiles, channels, true, [=] __device__(int64_t b, int64_t c) { return dlast ? dlast[b][c] : 0; },
      [=] __device__(int64_t n, int64_t c) { return decay[n][c]; },
      [=] __device__(int64_t n, int64_t c) { return added[n][c]; },
      [=] __device__(int64_t n, int64_t c, float ds) { added[n][c] = ds; },
      [=] __device__(int64_t b, int64_t c, float ds) {
        if (dfirst) dfirst[b][c] = ds;
      });
  // A thread recomputes its channel's states in shared memory, then goes back through the tile. `decay` has
  // become free: it takes the tile's share of the skip's gradient.
  const int64_t blocks_a_tile = (channels + kThreads - 1) / kThreads;
  launch<kThreads>({tiles.count * blocks_a_tile}, kScanTile * kThreads * 4, [=] __device__() {
    float* before = dynamic_shared<float>() + threadIdx.x;
    const int64_t n = blockIdx.x / blocks_a_tile, c = blockIdx.x % blocks_a_tile * kThreads + threadIdx.x;
    if (c >= channels) return;
    const ScanTile tile = tiles.tiles[n];
    float s = borders[n][c];
    for (int t = 0; t < tile.rows; ++t) {
      const Step step = step_of(g[tile.row + t][c]);
      before[t * kThreads] = s;
      s = step.a * s + step.b * u[tile.row + t][c];
    }
    const float d = skip[0][c];
    float ds = added[n][c], of_skip = 0;
    for (int t = tile.rows - 1; t >= 0; --t) {
      const int64_t r = tile.row + t;
      const Step step = step_of(g[r][c]);
      const float in = u[r][c], gate = z[r][c], gradient = dy[r][c], entered = before[t * kThreads];
      dz[r][c] = gradient * (s + d * in) * silu_slope(gate);
      const float inner = gradient * silu(gate);
      of_skip += inner * in;
      ds += inner;
      du[r][c] = inner * d + ds * step.b;
      dg[r][c] =
          ds * (in * step.a * step.a * sqrtf(step.closed / (1 + step.a)) - entered * step.a * step.closed);
      ds *= step.a;
      s = entered;
    }
    decay[n][c] = of_skip;
  });
  sum_columns(
      context, tiles.count, channels, [=] __device__(int64_t n, int64_t c) { return decay[n][c]; },
      [=] __device__(int64_t c, float sum) { dskip[0][c] += sum; });
}

}  // namespace harmonic::cuda
