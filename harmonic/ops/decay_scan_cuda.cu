#include "harmonic/ops/decay_scan.h"

#include "harmonic/ops/cuda_scan.h"

namespace harmonic::cuda {
namespace {

// A block has a tile of rows of so many channels; each of a channel's threads has a part of the rows, whose
// inputs it reads once and keeps in registers.
constexpr int kChannels = LookBack::kChannels, kParts = 8, kThreads = kChannels * kParts;
constexpr int kPartRows = kScanTile / kParts;

// What a row does to the state: s = a s + b u.
struct Step {
  float a, b, closed;  // closed = sigmoid(g) = 1 - a
};
__device__ Step step_of(float g) {
  const float e = fast_exp(-fabsf(g)), larger = fast_reciprocal(1 + e), smaller = e * larger;
  const float a = g >= 0 ? smaller : larger, closed = g >= 0 ? larger : smaller;
  return {a, fast_root((1 + a) * closed), closed};
}
// The rows of a thread, in the tile that its block has.
struct Part {
  int64_t tile, c, row;  // row is its first
  int segment, part, count;
  bool first, last;  // of the segment's tiles
  __device__ bool in(int64_t channels) const { return c < channels; }
};
__device__ Part part_of(const ScanTiles& tiles, int64_t tile, int64_t across) {
  const ScanTile rows = tiles.tiles[tile];
  const int part = static_cast<int>(threadIdx.x) / kChannels;
  const int left = rows.rows - part * kPartRows;
  return {tile,
          across * kChannels + threadIdx.x % kChannels,
          rows.row + part * kPartRows,
          rows.segment,
          part,
          left < 0           ? 0
          : left > kPartRows ? kPartRows
                             : left,
          rows.is_first,
          rows.is_last};
}

// So that a row that is not there does nothing to a state: a = 1, b = 0.
constexpr float kOpen = -INFINITY;
__device__ void load(float (&to)[kPartRows], const Rows& from, const Part& own, bool there, float otherwise) {
  const float* number = from[own.row] + own.c;
#pragma unroll
  for (int i = 0; i < kPartRows; ++i, number += from.stride)
    to[i] = there && i < own.count ? *number : otherwise;
}

// What the threads of a block tell each other of their parts.
struct Shared {
  float decay[kParts][kChannels], added[kParts][kChannels], entering[kChannels];
  float states[kParts][kChannels];  // on the way back, when the others are of its gradient
  LookBack::Shared look_back;
};

// Where no segment has more than a row, as in a step of decoding, nothing goes from tile to tile.
void advance_by_a_row(const DecayScan& op) {
  const Rows u = rows_of(op.u), z = rows_of(op.z), g = rows_of(op.g), skip = rows_of(op.skip);
  const Rows before = rows_of(op.state_in), after = rows_of(op.state_out), borders = rows_of(op.borders);
  const OperandRows y = operand_rows_of(op.y);
  const SegmentRows segments = staged(op.segments);
  for_each_element(op.segments.count, op.u.cols, [=] __device__(int64_t b, int64_t c) {
    float s = before[b][c];
    if (segments.length(b) > 0) {
      const int64_t r = segments.begin(b);  // which is its tile's number, too
      if (borders) borders[r][c] = s;
      const Step step = step_of(g[r][c]);
      const float in = u[r][c], gate = z[r][c];
      s = step.a * s + step.b * in;
      y.put(r, c, (s + skip[0][c] * in) * gate * fast_sigmoid(gate));
    }
    after[b][c] = s;
  });
}

// Segments without rows have no tile: their states pass by.
void pass_by(const Segments& segments, const Rows& from, const Rows& to, int64_t channels) {
  const int64_t* end = segments.offsets + segments.count + 1;
  if (!to || std::adjacent_find(segments.offsets, end) == end) return;
  const SegmentRows rows = staged(segments);
  for_each_element(segments.count, channels, [=] __device__(int64_t b, int64_t c) {
    if (rows.length(b) == 0) to[b][c] = from ? from[b][c] : 0;
  });
}

}  // namespace

void run(Context& context, const DecayScan& op) {
  if (op.segments.longest() <= 1) return advance_by_a_row(op);
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols;
  const LookBack look_back(context, tiles, channels);
  const Rows u_rows = rows_of(op.u), z_rows = rows_of(op.z), g_rows = rows_of(op.g), skip = rows_of(op.skip);
  const Rows first = rows_of(op.state_in), last = rows_of(op.state_out), borders = rows_of(op.borders);
  const OperandRows y = operand_rows_of(op.y);
  launch<kThreads, 4>({look_back.blocks()}, sizeof(Shared), [=] __device__() {
    auto& shared = *dynamic_shared<Shared>();
    const LookBack::Place place = look_back.place();
    const Part own = part_of(tiles, place.tile, place.across);
    const bool there = own.in(channels);
    float u[kPartRows], z[kPartRows], a[kPartRows], b[kPartRows];
    load(a, g_rows, own, there, kOpen);
    load(u, u_rows, own, there, 0);
    float kept = 1, s = 0;
#pragma unroll
    for (int i = 0; i < kPartRows; ++i) {
      const Step step = step_of(a[i]);
      a[i] = step.a;
      b[i] = step.b;
      kept *= a[i];
      s = a[i] * s + b[i] * u[i];
    }
    const int channel = static_cast<int>(threadIdx.x) % kChannels;
    shared.decay[own.part][channel] = kept;
    shared.added[own.part][channel] = s;
    __syncthreads();
    if (own.part == 0) {
#pragma unroll
      for (int part = 1; part < kParts; ++part) {
        kept *= shared.decay[part][channel];
        s = shared.decay[part][channel] * s + shared.added[part][channel];
      }
      if (!own.first) look_back.announce(place, kept, s);
    }
    // On its way while the tile waits for those before.
    load(z, z_rows, own, there, 0);
    const float start = own.part == 0 && own.first && there ? first[own.segment][own.c] : 0;
    const float entering = look_back.enter(shared.look_back, place, own.first, start, kept, s);
    if (own.part == 0) {
      shared.entering[channel] = entering;
      if (borders && there) borders[own.tile][own.c] = entering;
    }
    __syncthreads();
    if (!there) return;
    s = shared.entering[channel];
    for (int part = 0; part < own.part; ++part)
      s = shared.decay[part][channel] * s + shared.added[part][channel];
    const float d = skip[0][own.c];
#pragma unroll
    for (int i = 0; i < kPartRows; ++i) {
      s = a[i] * s + b[i] * u[i];
      if (i < own.count) y.put(own.row + i, own.c, (s + d * u[i]) * z[i] * fast_sigmoid(z[i]));
    }
    if (own.last && own.part == kParts - 1) last[own.segment][own.c] = s;
  });
  pass_by(op.segments, first, last, channels);
}

void run(Context& context, const DecayScanBackward& op) {
  const ScanTiles tiles(op.segments, kScanTile);
  const int64_t channels = op.u.cols;
  const LookBack look_back(context, tiles, channels);
  const Rows u_rows = rows_of(op.u), z_rows = rows_of(op.z), g_rows = rows_of(op.g), skip = rows_of(op.skip);
  const Rows borders = rows_of(op.borders), dy_rows = rows_of(op.dy);
  const Rows dlast = rows_of(op.dstate_out), dfirst = rows_of(op.dstate_in), dskip = rows_of(op.dskip);
  const Rows du = rows_of(op.du), dz = rows_of(op.dz), dg = rows_of(op.dg);
  const Rows of_skip = rows_of(scratch_tensor(context, tiles.count, channels));
  const int64_t count = tiles.count;
  // Before: the states that enter rows, from the border that forward left; then the gradient of the state
  // goes from the last tile to the first as states do from the first to the last.
  launch<kThreads, 3>({look_back.blocks()}, sizeof(Shared), [=] __device__() {
    auto& shared = *dynamic_shared<Shared>();
    const LookBack::Place place = look_back.place();
    const Part own = part_of(tiles, count - 1 - place.tile, place.across);
    const bool there = own.in(channels);
    float u[kPartRows], z[kPartRows], g[kPartRows], dy[kPartRows], before[kPartRows];
    load(g, g_rows, own, there, kOpen);
    load(z, z_rows, own, there, 0);
    load(dy, dy_rows, own, there, 0);
    load(u, u_rows, own, there, 0);
    float kept = 1, s = 0, ds = 0;
#pragma unroll
    for (int i = kPartRows - 1; i >= 0; --i) {
      const float a = step_of(g[i]).a;
      kept *= a;
      ds = a * (ds + dy[i] * z[i] * fast_sigmoid(z[i]));
    }
    const int channel = static_cast<int>(threadIdx.x) % kChannels;
    shared.decay[own.part][channel] = kept;
    shared.added[own.part][channel] = ds;
    __syncthreads();
    if (own.part == 0) {
      kept = shared.decay[kParts - 1][channel];
      ds = shared.added[kParts - 1][channel];
#pragma unroll
      for (int part = kParts - 2; part >= 0; --part) {
        kept *= shared.decay[part][channel];
        ds = shared.decay[part][channel] * ds + shared.added[part][channel];
      }
      if (!own.last) look_back.announce(place, kept, ds);
    }
    // The states that enter rows, while the tile waits for those after.
#pragma unroll
    for (int i = 0; i < kPartRows; ++i) {
      const Step step = step_of(g[i]);
      s = step.a * s + step.b * u[i];
    }
    shared.states[own.part][channel] = s;
    __syncthreads();
    s = there ? borders[own.tile][own.c] : 0;
    for (int part = 0; part < own.part; ++part)
      s = shared.decay[part][channel] * s + shared.states[part][channel];
#pragma unroll
    for (int i = 0; i < kPartRows; ++i) {
      const Step step = step_of(g[i]);
      before[i] = s;
      s = step.a * s + step.b * u[i];
    }
    const float start = own.part == 0 && own.last && dlast && there ? dlast[own.segment][own.c] : 0;
    const float entering = look_back.enter(shared.look_back, place, own.last, start, kept, ds);
    if (own.part == 0) {
      shared.entering[channel] = entering;
      if (own.first && dfirst && there) dfirst[own.segment][own.c] = kept * entering + ds;
    }
    __syncthreads();
    ds = shared.entering[channel];
    for (int part = kParts - 1; part > own.part; --part)
      ds = shared.decay[part][channel] * ds + shared.added[part][channel];
    const float d = there ? skip[0][own.c] : 0;
    float sum = 0;
#pragma unroll
    for (int i = kPartRows - 1; i >= 0; --i) {
      const Step step = step_of(g[i]);
      const float gate = fast_sigmoid(z[i]), inner = dy[i] * z[i] * gate;
      const float dz_own = dy[i] * (s + d * u[i]) * gate * (1 + z[i] * (1 - gate));
      sum += inner * u[i];
      ds += inner;
      if (there && i < own.count) {
        const int64_t r = own.row + i;
        dz[r][own.c] = dz_own;
        du[r][own.c] = inner * d + ds * step.b;
        dg[r][own.c] =
            ds * step.a * (u[i] * step.a * step.b * fast_reciprocal(1 + step.a) - before[i] * step.closed);
      }
      ds *= step.a;
      s = before[i];
    }
    __syncthreads();
    shared.added[own.part][channel] = sum;
    __syncthreads();
    if (own.part > 0 || !there) return;
#pragma unroll
    for (int part = 1; part < kParts; ++part) sum += shared.added[part][channel];
    of_skip[own.tile][own.c] = sum;
  });
  pass_by(op.segments, dlast, dfirst, channels);
  sum_columns(
      context, tiles.count, channels, [=] __device__(int64_t n, int64_t c) { return of_skip[n][c]; },
      [=] __device__(int64_t c, float sum) { dskip[0][c] += sum; });
}

}  // namespace harmonic::cuda
