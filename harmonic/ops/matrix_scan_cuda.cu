#include "harmonic/ops/matrix_scan.h"

#include "harmonic/ops/cuda_block_products.h"
#include "harmonic/ops/cuda_scan.h"

namespace harmonic::cuda {
namespace {

// A tile's blocks, and the queries that are taken together.
constexpr int kBlocks = static_cast<int>(kMatrixTile), kPairs = 32;
static_assert(kBlocks == kWarpSize && kPairs == kWarpSize);
constexpr int kThreads = 512, kWarps = kThreads / kWarpSize;

// A tile of one head of keys: its blocks and the queries that read a state within it. A query that has n of
// the segment's blocks behind it reads the state after block n - 1 and belongs to tile n / 32; those that
// have all of a last, full tile behind them belong to it, too.
struct TileOfHead {
  Rows q, k, v, g, log_gain;
  SegmentRows segments, blocks;
  const int64_t* phases;
  ScanTiles tiles;
  int heads, kv_heads, F, D, stride;

  __host__ __device__ int E() const { return D + 1; }
  __host__ __device__ int group() const { return heads / kv_heads; }

  // Of the tile that this block of threads has.
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t head() const { return blockIdx.y; }
  __device__ ScanTile tile() const { return tiles.tiles[index()]; }
  __device__ int64_t blocks_before() const { return tile().row - blocks.begin(tile().segment); }
  // Its part of a row of states.
  __device__ float* state(const Rows& of) const { return of[index()] + head() * F * E(); }

  // Queries of the tile: the heads of the group within its tokens, which are [first_token, last_token) of the
  // segment.
  __device__ int pairs() const {
    const int64_t length = segments.length(tile().segment);
    const int64_t last = tile().is_last ? length : token_with(blocks_before() + kBlocks);
    return last > first_token() ? static_cast<int>(last - first_token()) * group() : 0;
  }
  struct Query {
    int64_t row, head;
    int behind;  // blocks of the tile that it has behind it
  };
  __device__ Query query(int pair) const {
    const int64_t b = tile().segment, t = first_token() + pair / group();
    const int64_t read = quotient(phases[b] + t + 1, stride) - blocks_before();
    return {segments.begin(b) + t, head() * group() + pair % group(), static_cast<int>(read)};
  }

 private:
  __device__ int64_t first_token() const { return token_with(blocks_before()); }
  // The first token with so many blocks behind it; all have 0.
  __device__ int64_t token_with(int64_t n) const {
    const int64_t b = tile().segment, t = n * stride - phases[b] - 1, length = segments.length(b);
    return n == 0 || t < 0 ? 0 : t < length ? t : length;
  }
};

template <typename Op>
TileOfHead tile_of(const Op& op) {
  return {rows_of(op.q),
          rows_of(op.k),
          rows_of(op.v),
          rows_of(op.g),
          rows_of(op.log_gain),
          staged(op.segments),
          staged(op.blocks),
          staged(op.phases, op.segments.count),
          ScanTiles(op.blocks, kMatrixTile, true),
          static_cast<int>(op.shape.heads),
          static_cast<int>(op.shape.kv_heads),
          static_cast<int>(op.shape.features),
          static_cast<int>(op.shape.values),
          static_cast<int>(op.shape.stride)};
}

// What the passes over queries keep of a tile in shared memory.
struct TileMemory {
  Table keys, values, decays;

  static int floats(int F, int E) {
    return Table::floats(kBlocks, F) + Table::floats(kBlocks, E) + Table::floats(kBlocks + 1, kBlocks + 1);
  }
  // By all threads, which have yet to wait for each other. A value has a last column of 1; blocks that are
  // not there are zero.
  __device__ TileMemory(const TileOfHead& of, TakeTables& take)
      : keys(take(kBlocks, of.F)), values(take(kBlocks, of.E())), decays(take(kBlocks + 1, kBlocks + 1)) {
    const ScanTile tile = of.tile();
    const int64_t head = of.head();
    fill(keys, kBlocks, of.F,
         [&](int j, int f) { return j < tile.rows ? of.k[tile.row + j][head * of.F + f] : 0; });
    fill(values, kBlocks, of.E(), [&](int j, int e) {
      return j >= tile.rows ? 0 : e == of.D ? 1 : of.v[tile.row + j][head * of.D + e];
    });
    if (threadIdx.x > kBlocks) return;
    const auto j = static_cast<int>(threadIdx.x);
    const int fresh = j == kBlocks ? 0 : j + 1;
    float left = 1;
    for (int n = fresh; n <= tile.rows; ++n) {
      if (n > fresh) left *= sigmoid(-of.g[tile.row + n - 1][head]);
      decays[n][j] = left;
    }
  }
  // What is left of block j's part of the state when n blocks are behind, j < n; of the entering state for
  // j = kBlocks.
  __device__ float decay(int n, int j) const { return decays[n][j]; }
};

// Up to kPairs queries of a tile, in shared memory.
struct Queries {
  struct One {
    int64_t row, head;
    int behind;
    float gain;  // 0 where there is none
  };
  One* ones;
  Table q;
  int count = 0;

  static int floats(int F) {
    return Table::floats(kPairs, F) + kPairs * static_cast<int>(sizeof(One) / sizeof(float));
  }
  // At the beginning of the memory, where addresses are multiples of 16.
  __device__ Queries(const TileOfHead& of, TakeTables& take) : ones(reinterpret_cast<One*>(take.next)) {
    take.next += kPairs * (sizeof(One) / sizeof(float));
    q = take(kPairs, of.F);
  }
  // By all threads, which wait for each other at its beginning and have yet to at its end.
  __device__ void load(const TileOfHead& of, int begin, int end) {
    __syncthreads();
    count = end - begin < kPairs ? end - begin : kPairs;
    if (threadIdx.x < kPairs) {
      const auto p = static_cast<int>(threadIdx.x);
      const TileOfHead::Query query = of.query(p < count ? begin + p : begin);
      ones[p] = {query.row, query.head, p < count ? query.behind : 0,
                 p < count ? expf(of.log_gain[0][query.head]) : 0};
    }
    __syncthreads();
    fill(q, kPairs, of.F,
         [&](int p, int f) { return p < count ? of.q[ones[p].row][ones[p].head * of.F + f] : 0; });
  }
};

// The sums that a state consists of, or its gradient: to(f, e) = sum of weight(i) left(i)[f] right(i)[e] over
// i < count, a block of threads for each part of kFeatures by kColumns.
struct OuterProducts {
  static constexpr int kFeatures = 64, kColumns = 80, kRows = 4, kAcross = 5, kThreads = 256;
  static_assert(kFeatures / kRows * (kColumns / kAcross) == kThreads);
  int F, E, parts_across;

  explicit OuterProducts(const TileOfHead& of)
      : F(of.F), E(of.E()), parts_across((of.E() + kColumns - 1) / kColumns) {}
  int64_t parts() const { return int64_t{(F + kFeatures - 1) / kFeatures} * parts_across; }
  static int64_t bytes() {
    return (Table::floats(kBlocks, kFeatures) + Table::floats(kBlocks, kColumns) + kBlocks) * 4;
  }

  // weight, left and right are asked for numbers that are there alone.
  template <typename Weight, typename Left, typename Right>
  __device__ void sum(int count, float* to, Weight weight, Left left, Right right) const {
    TakeTables take{dynamic_shared<float>()};
    const Table lefts = take(kBlocks, kFeatures), rights = take(kBlocks, kColumns);
    float* weights = take.next;
    const int part = static_cast<int>(blockIdx.z);
    const int f0 = part / parts_across * kFeatures, e0 = part % parts_across * kColumns;
    const int row = static_cast<int>(threadIdx.x) / (kColumns / kAcross) * kRows,
              column = static_cast<int>(threadIdx.x) % (kColumns / kAcross);
    float sums[kRows][kAcross] = {};
    for (int begin = 0; begin < count; begin += kBlocks) {
      const int here = count - begin < kBlocks ? count - begin : kBlocks;
      __syncthreads();
      if (threadIdx.x < kBlocks) {
        const auto i = static_cast<int>(threadIdx.x);
        weights[i] = i < here ? weight(begin + i) : 0;
      }
      __syncthreads();
      fill(lefts, kBlocks, kFeatures,
           [&](int i, int f) { return i < here && f0 + f < F ? weights[i] * left(begin + i, f0 + f) : 0; });
      fill(rights, kBlocks, kColumns,
           [&](int i, int e) { return i < here && e0 + e < E ? right(begin + i, e0 + e) : 0; });
      __syncthreads();
#pragma unroll 4
      for (int i = 0; i < kBlocks; ++i) {
        float own[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) own[r] = lefts[i][row + r];
#pragma unroll
        for (int c = 0; c < kAcross; ++c) {
          const float other = rights[i][column + c * (kColumns / kAcross)];
#pragma unroll
          for (int r = 0; r < kRows; ++r) sums[r][c] += own[r] * other;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kAcross; ++c) {
        const int f = f0 + row + r, e = e0 + column + c * (kColumns / kAcross);
        if (f < F && e < E) to[f * E + e] = sums[r][c];
      }
  }
};

// The decays of a tile's blocks from one to another, by a thread that has no table of them.
__device__ float decay_between(const TileOfHead& of, int from, int to) {
  float left = 1;
  for (int n = from; n < to; ++n) left *= sigmoid(-of.g[of.tile().row + n][of.head()]);
  return left;
}

// So much memory can a block's threads share.
constexpr int64_t kMostSharedBytes = 227 << 10;
// Features of a state that are at hand together on the way back.
constexpr int kSlice = 64;
int64_t bytes_forward(int F, int E) {
  return 4 * (Queries::floats(F) + TileMemory::floats(F, E) + Table::floats(kPairs, kBlocks));
}
int64_t bytes_back(int F, int E) {
  return 4 * (Queries::floats(F) + TileMemory::floats(F, E) + Table::floats(kPairs, E) +
              3 * Table::floats(kPairs, kBlocks) + Table::floats(kSlice, E) + Table::floats(kPairs, kSlice) +
              Table::floats(kWarps, kBlocks) + 2 * kBlocks + kThreads);
}
int64_t checked(int64_t bytes, const TileOfHead& of, const char* what) {
  if (bytes > kMostSharedBytes)
    fail(
        "{} of the matrix cell on a card: a head of {} features and {} values takes {} bytes of the memory "
        "that "
        "threads share, expected {} at most; --device cpu has no limit",
        what, of.F, of.D, bytes, kMostSharedBytes);
  return bytes;
}

}  // namespace

void run(Context& context, const MatrixScan& op) {
  const TileOfHead of = tile_of(op);
  const int F = of.F, E = of.E();
  const int64_t bytes = checked(bytes_forward(F, E), of, "the pass forward");
  const int64_t tiles = of.tiles.count, width = op.shape.state();
  const Rows first = rows_of(op.state_in), last = rows_of(op.state_out), y = rows_of(op.y);
  const Rows borders = rows_of(op.borders ? op.borders : scratch_tensor(context, tiles, width));
  const Rows added = rows_of(scratch_tensor(context, tiles, width));
  const Rows kept = rows_of(scratch_tensor(context, tiles, of.kv_heads));
  const OuterProducts products(of);
  launch<OuterProducts::kThreads>(
      {tiles, of.kv_heads, products.parts()}, OuterProducts::bytes(), [=] __device__() {
        const ScanTile tile = of.tile();
        const int64_t head = of.head();
        products.sum(
            tile.rows, of.state(added), [&](int j) { return decay_between(of, j + 1, tile.rows); },
            [&](int j, int f) { return of.k[tile.row + j][head * F + f]; },
            [&](int j, int e) { return e == of.D ? 1 : of.v[tile.row + j][head * of.D + e]; });
        if (blockIdx.z == 0 && threadIdx.x == 0) kept[of.index()][head] = decay_between(of, 0, tile.rows);
      });
  scan_over_tiles(
      of.tiles, width, false, [=] __device__(int64_t b, int64_t i) { return first[b][i]; },
      [=] __device__(int64_t n, int64_t i) { return kept[n][quotient(i, F * E)]; },
      [=] __device__(int64_t n, int64_t i) { return added[n][i]; },
      [=] __device__(int64_t n, int64_t i, float s) { borders[n][i] = s; },
      [=] __device__(int64_t b, int64_t i, float s) { last[b][i] = s; });
  // Queries know nothing of each other: several blocks of threads share those of a tile of long blocks.
  const int sharers = std::min(of.stride, 16);
  launch<kThreads>({tiles, of.kv_heads, sharers}, bytes, [=] __device__() {
    TakeTables take{dynamic_shared<float>()};
    Queries queries(of, take);
    const TileMemory memory(of, take);
    const Table scores = take(kPairs, kBlocks);
    const float* entering = of.state(borders);
    const int pairs = of.pairs(), step = static_cast<int>(gridDim.z) * kPairs;
    for (int begin = static_cast<int>(blockIdx.z) * kPairs; begin < pairs; begin += step) {
      queries.load(of, begin, pairs);
      __syncthreads();
      multiply<2, 1>(
          kPairs, kBlocks, F, [&](int p, int f) { return queries.q[p][f]; },
          [&](int f, int j) { return memory.keys[j][f]; },
          [&](int p, int j, float sum) {
            const int behind = queries.ones[p].behind;
            scores[p][j] = j < behind ? sum * memory.decay(behind, j) : 0;
          });
      // A thread has the same sums of both products.
      const auto out = [&](int p) -> float* { return y[queries.ones[p].row] + queries.ones[p].head * E; };
      multiply<2, 3>(
          queries.count, E, F, [&](int p, int f) { return queries.q[p][f]; },
          [&](int f, int e) { return entering[f * E + e]; },
          [&](int p, int e, float sum) { out(p)[e] = sum * memory.decay(queries.ones[p].behind, kBlocks); });
      __syncthreads();
      multiply<2, 3, true>(
          queries.count, E, kBlocks, [&](int p, int j) { return scores[p][j]; },
          [&](int j, int e) { return memory.values[j][e]; },
          [&](int p, int e, float sum) { out(p)[e] = queries.ones[p].gain * (out(p)[e] + sum); });
    }
  });
}

void run(Context& context, const MatrixScanBackward& op) {
  const TileOfHead of = tile_of(op);
  const int F = of.F, D = of.D, E = of.E();
  const int64_t bytes = checked(bytes_back(F, E), of, "the pass backward");
  const int64_t tiles = of.tiles.count, width = op.shape.state();
  const Rows borders = rows_of(op.borders), y = rows_of(op.y), dy = rows_of(op.dy);
  const Rows dlast = rows_of(op.dstate_out), dfirst = rows_of(op.dstate_in);
  const Rows dq = rows_of(op.dq), dk = rows_of(op.dk), dv = rows_of(op.dv), dg = rows_of(op.dg);
  const Rows dlog_gain = rows_of(op.dlog_gain);
  const Rows added = rows_of(scratch_tensor(context, tiles, width));
  const Rows kept = rows_of(scratch_tensor(context, tiles, of.kv_heads));
  // What a tile's queries ask of the state that enters it.
  const OuterProducts products(of);
  launch<OuterProducts::kThreads>(
      {tiles, of.kv_heads, products.parts()}, OuterProducts::bytes(), [=] __device__() {
        products.sum(
            of.pairs(), of.state(added),
            [&](int p) {
              const TileOfHead::Query query = of.query(p);
              return expf(of.log_gain[0][query.head]) * decay_between(of, 0, query.behind);
            },
            [&](int p, int f) {
              const TileOfHead::Query query = of.query(p);
              return of.q[query.row][query.head * F + f];
            },
            [&](int p, int e) {
              const TileOfHead::Query query = of.query(p);
              return dy[query.row][query.head * E + e];
            });
        if (blockIdx.z == 0 && threadIdx.x == 0)
          kept[of.index()][of.head()] = decay_between(of, 0, of.tile().rows);
      });
  // The gradient of the state after each tile takes the place of what the tile adds.
  scan_over_tiles(
      of.tiles, width, true, [=] __device__(int64_t b, int64_t i) { return dlast ? dlast[b][i] : 0; },
      [=] __device__(int64_t n, int64_t i) { return kept[n][quotient(i, F * E)]; },
      [=] __device__(int64_t n, int64_t i) { return added[n][i]; },
      [=] __device__(int64_t n, int64_t i, float ds) { added[n][i] = ds; },
      [=] __device__(int64_t b, int64_t i, float ds) {
        if (dfirst) dfirst[b][i] = ds;
      });
  launch<kThreads>({tiles, of.kv_heads}, bytes, [=] __device__() {
    TakeTables take{dynamic_shared<float>()};
    Queries queries(of, take);
    const TileMemory memory(of, take);
    const Table dys = take(kPairs, E), of_keys = take(kPairs, kBlocks), of_values = take(kPairs, kBlocks);
    const Table along_scores = take(kPairs, kBlocks);
    const Table state = take(kSlice, E), entered = take(kPairs, kSlice), of_gates = take(kWarps, kBlocks);
    float *from_before = take.next, *at_end = from_before + kBlocks, *of_threads = at_end + kBlocks;
    const ScanTile tile = of.tile();
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize,
              warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int count = tile.rows, pairs = of.pairs();
    const float *entering = of.state(borders), *dafter = of.state(added);
    const auto dkey = [&](int j) -> float* { return dk[tile.row + j] + of.head() * F; };
    const auto dvalue = [&](int j) -> float* { return dv[tile.row + j] + of.head() * D; };
    // Copies features of a state from f0 on; all threads wait for each other, before and after.
    const auto load_state = [&](const float* from, int f0) {
      __syncthreads();
      fill(state, kSlice, E, [&](int f, int e) { return f0 + f < F ? from[(f0 + f) * E + e] : 0; });
      __syncthreads();
    };
    // What goes by the state that leaves the tile: to keys and values, and to the gates by what entered it.
    float through = 0;
    for (int i = static_cast<int>(threadIdx.x); i < F * E; i += kThreads) through += dafter[i] * entering[i];
    __syncthreads();  // the tile's memory is there
    of_threads[threadIdx.x] = through * memory.decay(count, kBlocks);
    for (int f0 = 0; f0 < F && count > 0; f0 += kSlice) {
      load_state(dafter, f0);
      multiply<2, 2>(
          count, F - f0 < kSlice ? F - f0 : kSlice, E, [&](int j, int e) { return memory.values[j][e]; },
          [&](int e, int f) { return state[f][e]; },
          [&](int j, int f, float sum) { dkey(j)[f0 + f] = sum * memory.decay(count, j); });
    }
    if (count > 0)
      multiply<2, 2>(
          count, D, F, [&](int j, int f) { return memory.keys[j][f]; },
          [&](int f, int e) { return dafter[f * E + e]; },
          [&](int j, int e, float sum) { dvalue(j)[e] = sum * memory.decay(count, j); });
    __syncthreads();
    for (int j = warp; j < kBlocks; j += kWarps) {
      float sum = 0;
      for (int f = lane; f < F && j < count; f += kWarpSize) sum += dkey(j)[f] * memory.keys[j][f];
      sum = warp_sum(sum);
      if (lane == 0) at_end[j] = sum;
    }
    // Of the log of block i's decay: all that reaches over block i, from before it to after it.
    float of_gate = 0;
    for (int begin = 0; begin < pairs; begin += kPairs) {
      queries.load(of, begin, pairs);
      fill(dys, kPairs, E, [&](int p, int e) {
        return p < queries.count ? dy[queries.ones[p].row][queries.ones[p].head * E + e] : 0;
      });
      if (threadIdx.x < kPairs) from_before[threadIdx.x] = 0;
      __syncthreads();
      // A thread has the same sums of both products.
      multiply<2, 1>(
          kPairs, kBlocks, F, [&](int p, int f) { return queries.q[p][f]; },
          [&](int f, int j) { return memory.keys[j][f]; },
          [&](int p, int j, float sum) {
            const Queries::One& one = queries.ones[p];
            of_values[p][j] = j < one.behind ? one.gain * memory.decay(one.behind, j) * sum : 0;
          });
      multiply<2, 1>(
          kPairs, kBlocks, E, [&](int p, int e) { return dys[p][e]; },
          [&](int e, int j) { return memory.values[j][e]; },
          [&](int p, int j, float sum) {
            const Queries::One& one = queries.ones[p];
            of_keys[p][j] = j < one.behind ? one.gain * memory.decay(one.behind, j) * sum : 0;
            along_scores[p][j] = of_values[p][j] * sum;
          });
      for (int f0 = 0; f0 < F; f0 += kSlice) {
        const int features = F - f0 < kSlice ? F - f0 : kSlice;
        load_state(entering, f0);
        multiply<2, 2>(
            kPairs, features, E, [&](int p, int e) { return dys[p][e]; },
            [&](int e, int f) { return state[f][e]; },
            [&](int p, int f, float sum) {
              const Queries::One& one = queries.ones[p];
              entered[p][f] = one.gain * memory.decay(one.behind, kBlocks) * sum;
            });
        __syncthreads();
        for (int p = warp; p < kPairs; p += kWarps) {
          float sum = 0;
          for (int f = lane; f < features; f += kWarpSize) sum += queries.q[p][f0 + f] * entered[p][f];
          sum = warp_sum(sum);
          if (lane == 0) from_before[p] += sum;
        }
        multiply<2, 2>(
            queries.count, features, kBlocks, [&](int p, int j) { return of_keys[p][j]; },
            [&](int j, int f) { return memory.keys[j][f0 + f]; },
            [&](int p, int f, float sum) {
              dq[queries.ones[p].row][queries.ones[p].head * F + f0 + f] = entered[p][f] + sum;
            });
      }
      __syncthreads();
      for (int p = warp; p < queries.count; p += kWarps) {
        // The sum over the lanes before this one.
        float before = along_scores[p][lane];
        for (int by = 1; by < kWarpSize; by *= 2) {
          const float other = __shfl_up_sync(kAllLanes, before, static_cast<unsigned>(by));
          if (lane >= by) before += other;
        }
        before = __shfl_up_sync(kAllLanes, before, 1u);
        if (lane < queries.ones[p].behind) of_gate += from_before[p] + (lane > 0 ? before : 0);
      }
      if (count == 0) continue;
      multiply<4, 4>(
          count, F, queries.count, [&](int j, int p) { return of_keys[p][j]; },
          [&](int p, int f) { return queries.q[p][f]; }, [&](int j, int f, float sum) { dkey(j)[f] += sum; });
      multiply<2, 2>(
          count, D, queries.count, [&](int j, int p) { return of_values[p][j]; },
          [&](int p, int e) { return dys[p][e]; }, [&](int j, int e, float sum) { dvalue(j)[e] += sum; });
    }
    of_gates[warp][lane] = of_gate;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= count) return;
    float sum = 0;
    for (int t = 0; t < kThreads; ++t) sum += of_threads[t];
    for (unsigned j = 0; j < threadIdx.x; ++j) sum += at_end[j];
    for (int w = 0; w < kWarps; ++w) sum += of_gates[w][threadIdx.x];
    dg[tile.row + threadIdx.x][of.head()] = -sum * sigmoid(of.g[tile.row + threadIdx.x][of.head()]);
  });
  sum_columns(
      context, op.q.rows, of.heads,
      [=] __device__(int64_t r, int64_t h) {
        const float *given = dy[r] + h * E, *found = y[r] + h * E;
        float sum = 0;
        for (int e = 0; e < E; ++e) sum += given[e] * found[e];
        return sum;
      },
      [=] __device__(int64_t h, float sum) { dlog_gain[0][h] += sum; });
}

}  // namespace harmonic::cuda
