#include "harmonic/ops/matrix_scan.h"

#include "harmonic/ops/cuda_scan.h"

namespace harmonic::cuda {
namespace {

// A lane of a warp stands for each block of a tile.
static_assert(kMatrixTile == kWarpSize);
constexpr int kBlocks = static_cast<int>(kMatrixTile);
constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;
constexpr int kPairs = 32;  // queries that the way back takes at once

// A tile of one head of keys: its blocks and the queries that read a state within it. A query that has n of
// the segment's blocks behind it reads the state after block n - 1 and belongs to tile n / 32; those that
// have all of a last, full tile behind them belong to it, too.
struct TileOfHead {
  Rows q, k, v, g, log_gain;
  SegmentRows segments, blocks;
  const int64_t* phases;
  ScanTiles tiles;
  int64_t heads, kv_heads, F, D, stride;

  __device__ int64_t E() const { return D + 1; }
  __device__ int64_t state() const { return F * E(); }
  __device__ int64_t group() const { return heads / kv_heads; }

  // Of the tile that this block of threads has.
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t head() const { return blockIdx.y; }
  __device__ ScanTile tile() const { return tiles.tiles[index()]; }
  __device__ int64_t blocks_before() const { return tile().row - blocks.begin(tile().segment); }

  // Tokens [first, last) of the segment.
  __device__ int64_t first_token() const { return token_with(blocks_before()); }
  __device__ int64_t last_token() const {
    const int64_t length = segments.length(tile().segment);
    return tile().is_last ? length : token_with(blocks_before() + kBlocks);
  }
  // Queries of the tile, heads of the group within tokens.
  __device__ int64_t pairs() const {
    const int64_t first = first_token(), last = last_token();
    return last > first ? (last - first) * group() : 0;
  }
  struct Query {
    int64_t row, head;
    int behind;  // blocks of the tile that it has behind it
  };
  __device__ Query query(int64_t pair) const {
    const int64_t b = tile().segment, t = first_token() + pair / group();
    const int64_t read = (phases[b] + t + 1) / stride - blocks_before();
    return {segments.begin(b) + t, head() * group() + pair % group(), static_cast<int>(read)};
  }

 private:
  // The first token with so many blocks behind it; all have 0.
  __device__ int64_t token_with(int64_t n) const {
    const int64_t b = tile().segment, t = n * stride - phases[b] - 1, length = segments.length(b);
    return n == 0 || t < 0 ? 0 : t < length ? t : length;
  }
};

// Features and values of a head together: so many find room in the memory that a block's threads share, also
// on the way back.
constexpr int64_t kMostNumbers = 800;

template <typename Op>
TileOfHead tile_of(const Op& op) {
  if (const int64_t numbers = op.shape.features + op.shape.values; numbers > kMostNumbers)
    fail(
        "the matrix cell on a card: a head has {} features and values, expected {} at most; --device cpu has "
        "no limit",
        numbers, kMostNumbers);
  return {rows_of(op.q),
          rows_of(op.k),
          rows_of(op.v),
          rows_of(op.g),
          rows_of(op.log_gain),
          staged(op.segments),
          staged(op.blocks),
          staged(op.phases, op.segments.count),
          ScanTiles(op.blocks, kMatrixTile, true),
          op.shape.heads,
          op.shape.kv_heads,
          op.shape.features,
          op.shape.values,
          op.shape.stride};
}

// What all passes keep of a tile in shared memory.
struct TileMemory {
  float *keys, *values, *decays;
  int64_t F, E;

  static int64_t floats(int64_t F, int64_t D) {
    return kBlocks * (F + 1) + kBlocks * (D + 2) + (kBlocks + 1) * (kBlocks + 1);
  }
  __device__ TileMemory(float* memory, int64_t features, int64_t columns)
      : keys(memory),
        values(keys + kBlocks * (features + 1)),
        decays(values + kBlocks * (columns + 1)),
        F(features),
        E(columns) {}
  __device__ float* end() const { return decays + (kBlocks + 1) * (kBlocks + 1); }
  // Numbers of block j; its value has a last column of 1. Blocks that are not there are zero.
  __device__ float* key(int j) const { return keys + j * (F + 1); }
  __device__ float* value(int j) const { return values + j * (E + 1); }
  // What is left of block j's part of the state when n blocks are behind, j < n; of the entering state for
  // j = kBlocks.
  __device__ float& decay(int n, int j) const { return decays[n * (kBlocks + 1) + j]; }

  // By all threads, which wait for each other at its end.
  __device__ void load(const TileOfHead& of) const {
    const ScanTile tile = of.tile();
    const int64_t head = of.head();
    for (int64_t i = threadIdx.x; i < kBlocks * F; i += kThreads) {
      const int j = static_cast<int>(i / F);
      key(j)[i % F] = j < tile.rows ? of.k[tile.row + j][head * F + i % F] : 0;
    }
    for (int64_t i = threadIdx.x; i < kBlocks * E; i += kThreads) {
      const int j = static_cast<int>(i / E);
      const int64_t e = i % E;
      value(j)[e] = j >= tile.rows ? 0 : e == of.D ? 1 : of.v[tile.row + j][head * of.D + e];
    }
    if (threadIdx.x <= kBlocks) {
      const auto j = static_cast<int>(threadIdx.x);
      float left = 1;
      for (int n = j == kBlocks ? 0 : j + 1; n <= tile.rows; ++n) {
        const bool fresh = n == (j == kBlocks ? 0 : j + 1);
        if (!fresh) left *= sigmoid(-of.g[tile.row + n - 1][head]);
        decay(n, j) = left;
      }
    }
    __syncthreads();
  }
};

// The sum over e of a row of a state times dy, by the lanes of a warp, a feature each.
__device__ float row_times(const float* state, const float* dy, int64_t E) {
  float sum = 0;
  for (int64_t e = 0; e < E; ++e) sum += state[e] * dy[e];
  return sum;
}

}  // namespace

void run(Context& context, const MatrixScan& op) {
  const TileOfHead of = tile_of(op);
  const int64_t tiles = of.tiles.count, F = of.F, E = of.D + 1, width = op.shape.state();
  const int64_t bytes = TileMemory::floats(F, of.D) * 4;
  const Rows first = rows_of(op.state_in), last = rows_of(op.state_out), y = rows_of(op.y);
  const Rows borders = rows_of(op.borders ? op.borders : scratch_tensor(context, tiles, width));
  const Rows added = rows_of(scratch_tensor(context, tiles, width));
  const Rows kept = rows_of(scratch_tensor(context, tiles, of.kv_heads));
  launch<kThreads>({tiles, of.kv_heads}, bytes, [=] __device__() {
    const TileMemory memory(dynamic_shared<float>(), F, E);
    memory.load(of);
    const int count = of.tile().rows;
    for (int64_t i = threadIdx.x; i < F * E; i += kThreads) {
      float sum = 0;
      for (int j = 0; j < count; ++j)
        sum += memory.decay(count, j) * memory.key(j)[i / E] * memory.value(j)[i % E];
      added[of.index()][of.head() * F * E + i] = sum;
    }
    if (threadIdx.x == 0) kept[of.index()][of.head()] = memory.decay(count, kBlocks);
  });
  scan_over_tiles(
      of.tiles, width, false, [=] __device__(int64_t b, int64_t i) { return first[b][i]; },
      [=] __device__(int64_t n, int64_t i) { return kept[n][i / (F * E)]; },
      [=] __device__(int64_t n, int64_t i) { return added[n][i]; },
      [=] __device__(int64_t n, int64_t i, float s) { borders[n][i] = s; },
      [=] __device__(int64_t b, int64_t i, float s) { last[b][i] = s; });
  // A warp has a query at a time: lane j its score with block j, then a column of the result.
  launch<kThreads>({tiles, of.kv_heads}, bytes, [=] __device__() {
    const TileMemory memory(dynamic_shared<float>(), F, E);
    memory.load(of);
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    const float* entering = borders[of.index()] + of.head() * F * E;
    const int64_t pairs = of.pairs();
    for (int64_t pair = threadIdx.x / kWarpSize; pair < pairs; pair += kWarps) {
      const TileOfHead::Query query = of.query(pair);
      const float* q = of.q[query.row] + query.head * F;
      const float gain = expf(of.log_gain[0][query.head]), left = memory.decay(query.behind, kBlocks);
      float weight = 0;
      if (lane < query.behind) {
        for (int64_t f = 0; f < F; ++f) weight += q[f] * memory.key(lane)[f];
        weight *= memory.decay(query.behind, lane);
      }
      for (int64_t column = 0; column < E; column += kWarpSize) {
        const int64_t e = column + lane < E ? column + lane : E - 1;
        float sum = 0;
        for (int64_t f = 0; f < F; ++f) sum += q[f] * entering[f * E + e];
        sum *= left;
        for (int j = 0; j < query.behind; ++j) sum += __shfl_sync(kAllLanes, weight, j) * memory.value(j)[e];
        if (column + lane < E) y[query.row][query.head * E + e] = gain * sum;
      }
    }
  });
}

void run(Context& context, const MatrixScanBackward& op) {
  const TileOfHead of = tile_of(op);
  const int64_t tiles = of.tiles.count, F = of.F, D = of.D, E = D + 1, width = op.shape.state();
  const Rows borders = rows_of(op.borders), y = rows_of(op.y), dy = rows_of(op.dy);
  const Rows dlast = rows_of(op.dstate_out), dfirst = rows_of(op.dstate_in);
  const Rows dq = rows_of(op.dq), dk = rows_of(op.dk), dv = rows_of(op.dv), dg = rows_of(op.dg);
  const Rows dlog_gain = rows_of(op.dlog_gain);
  const int64_t bytes = TileMemory::floats(F, D) * 4;
  const Rows added = rows_of(scratch_tensor(context, tiles, width));
  const Rows kept = rows_of(scratch_tensor(context, tiles, of.kv_heads));
  // What a tile's queries ask of the state that enters it.
  launch<kThreads>({tiles, of.kv_heads}, bytes, [=] __device__() {
    const TileMemory memory(dynamic_shared<float>(), F, E);
    memory.load(of);
    const int64_t pairs = of.pairs();
    for (int64_t i = threadIdx.x; i < F * E; i += kThreads) {
      float sum = 0;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const TileOfHead::Query query = of.query(pair);
        sum += expf(of.log_gain[0][query.head]) * memory.decay(query.behind, kBlocks) *
               of.q[query.row][query.head * F + i / E] * dy[query.row][query.head * E + i % E];
      }
      added[of.index()][of.head() * F * E + i] = sum;
    }
    if (threadIdx.x == 0) kept[of.index()][of.head()] = memory.decay(of.tile().rows, kBlocks);
  });
  // The gradient of the state after each tile takes the place of what the tile adds.
  scan_over_tiles(
      of.tiles, width, true, [=] __device__(int64_t b, int64_t i) { return dlast ? dlast[b][i] : 0; },
      [=] __device__(int64_t n, int64_t i) { return kept[n][i / (F * E)]; },
      [=] __device__(int64_t n, int64_t i) { return added[n][i]; },
      [=] __device__(int64_t n, int64_t i, float ds) { added[n][i] = ds; },
      [=] __device__(int64_t b, int64_t i, float ds) {
        if (dfirst) dfirst[b][i] = ds;
      });
  // Gradients of keys and values of the tile, and of 32 queries at once the weights that they go by.
  const int64_t more = kBlocks * F + kBlocks * E + 2 * kPairs * kBlocks + (kWarps + 1) * kBlocks + kThreads;
  launch<kThreads>({tiles, of.kv_heads}, bytes + more * 4, [=] __device__() {
    const TileMemory memory(dynamic_shared<float>(), F, E);
    float* dkeys = memory.end();                     // [kBlocks, F]
    float* dvalues = dkeys + kBlocks * F;            // [kBlocks, E]
    float* of_keys = dvalues + kBlocks * E;          // [kPairs, kBlocks]
    float* of_values = of_keys + kPairs * kBlocks;   // [kPairs, kBlocks]
    float* of_gates = of_values + kPairs * kBlocks;  // [kWarps, kBlocks]
    float* at_end = of_gates + kWarps * kBlocks;     // [kBlocks]
    float* of_threads = at_end + kBlocks;            // [kThreads]
    memory.load(of);
    const ScanTile tile = of.tile();
    const int lane = static_cast<int>(threadIdx.x % kWarpSize),
              warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int count = tile.rows;
    const float* entering = borders[of.index()] + of.head() * F * E;
    const float* dafter = added[of.index()] + of.head() * F * E;
    // What goes by the state that leaves the tile.
    float through = 0;
    for (int64_t i = threadIdx.x; i < F * E; i += kThreads) through += dafter[i] * entering[i];
    of_threads[threadIdx.x] = through * memory.decay(count, kBlocks);
    for (int64_t i = threadIdx.x; i < kBlocks * F; i += kThreads) {
      const int j = static_cast<int>(i / F);
      const int64_t f = i % F;
      dkeys[i] = j < count ? memory.decay(count, j) * row_times(dafter + f * E, memory.value(j), E) : 0;
    }
    for (int64_t i = threadIdx.x; i < kBlocks * E; i += kThreads) {
      const int j = static_cast<int>(i / E);
      float sum = 0;
      for (int64_t f = 0; j < count && f < F; ++f) sum += dafter[f * E + i % E] * memory.key(j)[f];
      dvalues[i] = j < count ? memory.decay(count, j) * sum : 0;
    }
    __syncthreads();
    if (threadIdx.x < kBlocks) at_end[threadIdx.x] = row_times(dkeys + threadIdx.x * F, memory.key(lane), F);
    // Of the log of block i's decay: all that reaches over block i, from before it to after it.
    float of_gate = 0;
    const int64_t pairs = of.pairs();
    for (int64_t begin = 0; begin < pairs; begin += kPairs) {
      const int here = static_cast<int>(pairs - begin < kPairs ? pairs - begin : kPairs);
      for (int p = warp; p < here; p += kWarps) {
        const TileOfHead::Query query = of.query(begin + p);
        const float* q = of.q[query.row] + query.head * F;
        const float* d = dy[query.row] + query.head * E;
        const float gain = expf(of.log_gain[0][query.head]);
        float score = 0, along = 0, weight = 0;
        if (lane < query.behind) {
          for (int64_t f = 0; f < F; ++f) score += q[f] * memory.key(lane)[f];
          along = row_times(memory.value(lane), d, E);
          weight = gain * memory.decay(query.behind, lane);
        }
        of_keys[p * kBlocks + lane] = weight * along;
        of_values[p * kBlocks + lane] = weight * score;
        const float left = gain * memory.decay(query.behind, kBlocks);
        float from_before = 0;
        for (int64_t column = 0; column < F; column += kWarpSize) {
          const bool there = column + lane < F;
          const int64_t f = there ? column + lane : F - 1;
          const float entered = left * row_times(entering + f * E, d, E);
          if (there) from_before += q[f] * entered;
          float sum = entered;
          for (int j = 0; j < query.behind; ++j)
            sum += __shfl_sync(kAllLanes, weight * along, j) * memory.key(j)[f];
          if (there) dq[query.row][query.head * F + f] = sum;
        }
        from_before = warp_sum(from_before);
        // The sum over the lanes before this one.
        float before = weight * along * score;
        for (int by = 1; by < kWarpSize; by *= 2) {
          const float other = __shfl_up_sync(kAllLanes, before, static_cast<unsigned>(by));
          if (lane >= by) before += other;
        }
        before = __shfl_up_sync(kAllLanes, before, 1u);
        if (lane < query.behind) of_gate += from_before + (lane > 0 ? before : 0);
      }
      __syncthreads();
      for (int64_t i = threadIdx.x; i < kBlocks * F; i += kThreads) {
        const int64_t j = i / F, f = i % F;
        float sum = dkeys[i];
        for (int p = 0; p < here; ++p) {
          const TileOfHead::Query query = of.query(begin + p);
          sum += of_keys[p * kBlocks + j] * of.q[query.row][query.head * F + f];
        }
        dkeys[i] = sum;
      }
      for (int64_t i = threadIdx.x; i < kBlocks * E; i += kThreads) {
        const int64_t j = i / E, e = i % E;
        float sum = dvalues[i];
        for (int p = 0; p < here; ++p) {
          const TileOfHead::Query query = of.query(begin + p);
          sum += of_values[p * kBlocks + j] * dy[query.row][query.head * E + e];
        }
        dvalues[i] = sum;
      }
      __syncthreads();
    }
    of_gates[warp * kBlocks + lane] = of_gate;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count * F; i += kThreads)
      dk[tile.row + i / F][of.head() * F + i % F] = dkeys[i];
    for (int64_t i = threadIdx.x; i < count * D; i += kThreads)
      dv[tile.row + i / D][of.head() * D + i % D] = dvalues[i / D * E + i % D];
    if (static_cast<int>(threadIdx.x) >= count) return;
    float sum = 0;
    for (int t = 0; t < kThreads; ++t) sum += of_threads[t];
    for (unsigned j = 0; j < threadIdx.x; ++j) sum += at_end[j];
    for (int w = 0; w < kWarps; ++w) sum += of_gates[w * kBlocks + threadIdx.x];
    dg[tile.row + threadIdx.x][of.head()] = -sum * sigmoid(of.g[tile.row + threadIdx.x][of.head()]);
  });
  sum_columns(
      context, op.q.rows, of.heads,
      [=] __device__(int64_t r, int64_t h) { return row_times(dy[r] + h * E, y[r] + h * E, E); },
      [=] __device__(int64_t h, float sum) { dlog_gain[0][h] += sum; });
}

}  // namespace harmonic::cuda
