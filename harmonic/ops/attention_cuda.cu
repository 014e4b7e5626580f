#include "harmonic/ops/attention.h"

#include "harmonic/ops/cuda_scan.h"

namespace harmonic::cuda {
namespace {

// Queries and keys go by tiles of so many; four threads share a row of a tile.
constexpr int kTile = 32, kThreadsARow = 4, kThreads = kTile * kThreadsARow;

// Where the keys and values that a segment's queries read lie, by position.
struct Memory {
  Rows k, v, past;
  SegmentRows segments;
  const int64_t* positions;
  int64_t width, capacity, D, group, window;

  __device__ bool own(int64_t b, int64_t p) const { return p >= positions[b]; }
  __device__ int64_t own_row(int64_t b, int64_t p) const { return segments.begin(b) + p - positions[b]; }
  __device__ int64_t cached(int64_t p) const { return p % capacity * 2 * width; }
  __device__ const float* key(int64_t b, int64_t p, int64_t head) const {
    return head * D + (own(b, p) ? k[own_row(b, p)] : past[b] + cached(p));
  }
  __device__ const float* value(int64_t b, int64_t p, int64_t head) const {
    return head * D + (own(b, p) ? v[own_row(b, p)] : past[b] + cached(p) + width);
  }
  __device__ int64_t first_key(int64_t p) const { return window > 0 && p >= window ? p - window + 1 : 0; }
  __device__ bool reads(int64_t query, int64_t p) const { return p <= query && p >= first_key(query); }
};

// So many numbers of a head find room in the memory that a block's threads share.
constexpr int64_t kWidestHead = 256;

template <typename Op>
Memory memory_of(const Op& op) {
  const int64_t width = op.k.cols;
  if (const int64_t D = op.q.cols / op.shape.heads; D > kWidestHead)
    fail("attention on a card: a head has {} numbers, expected {} at most; --device cpu has no limit", D,
         kWidestHead);
  return {rows_of(op.k),
          rows_of(op.v),
          rows_of(op.past),
          staged(op.segments),
          staged(op.positions, op.segments.count),
          width,
          op.past ? op.past.cols / (2 * width) : 1,
          op.q.cols / op.shape.heads,
          op.shape.heads / op.shape.kv_heads,
          op.shape.window};
}

// A tile of rows of D numbers in shared memory; one more apart, so that a column lies in different banks.
struct TileRows {
  float* data;
  int64_t D;
  __device__ float* operator[](int row) const { return data + row * (D + 1); }
  __device__ TileRows next() const { return {data + kTile * (D + 1), D}; }
  static int64_t floats(int64_t D) { return kTile * (D + 1); }
};

// Rows 0 .. count - 1 from where `at` says; the rest of the tile is zero. By all threads.
template <typename At>
__device__ void load(const TileRows& tile, int count, At at) {
  for (int64_t i = threadIdx.x; i < kTile * tile.D; i += kThreads) {
    const int row = static_cast<int>(i / tile.D);
    const int64_t c = i % tile.D;
    tile[row][c] = row < count ? at(row)[c] : 0;
  }
}

__device__ float dot(const float* a, const float* b, int64_t D) {
  float sum = 0;
  for (int64_t i = 0; i < D; ++i) sum += a[i] * b[i];
  return sum;
}
// Of the four threads of a row.
__device__ float row_sum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

constexpr int kScores = kTile * (kTile + 1);  // floats of a tile of scores
// A score's place, of a row and a column.
__device__ int score_at(int row, int column) { return row * (kTile + 1) + column; }

}  // namespace

// A block has a tile of queries of one head and goes over its keys, tile by tile; the softmax is kept
// running.
void run(Context&, const Attention& op) {
  const Memory memory = memory_of(op);
  const ScanTiles tiles(op.segments, kTile);
  const Rows q = rows_of(op.q), y = rows_of(op.y), lse = rows_of(op.lse);
  const int64_t D = memory.D, heads = op.shape.heads;
  const float scale = 1 / std::sqrt(static_cast<float>(D));
  launch<kThreads>({tiles.count, heads}, (4 * TileRows::floats(D) + kScores) * 4, [=] __device__() {
    const TileRows queries{dynamic_shared<float>(), D}, keys = queries.next(), values = keys.next();
    const TileRows output = values.next();
    float* scores = output.next().data;
    const ScanTile tile = tiles.tiles[blockIdx.x];
    const int64_t b = tile.segment, h = blockIdx.y, head = h / memory.group;
    const int row = static_cast<int>(threadIdx.x) / kThreadsARow;
    const int part = static_cast<int>(threadIdx.x) % kThreadsARow;
    const int64_t first = memory.positions[b] + tile.row - memory.segments.begin(b);  // position of row 0
    const int64_t position = first + row;
    load(queries, tile.rows, [&](int r) { return q[tile.row + r] + h * D; });
    for (int64_t c = part; c < D; c += kThreadsARow) output[row][c] = 0;
    float most = -INFINITY, sum = 0;
    for (int64_t from = memory.first_key(first) / kTile * kTile; from < first + tile.rows; from += kTile) {
      // Keys before the first that any row of the tile reads may not be there any more.
      const int64_t skipped = memory.first_key(first) > from ? memory.first_key(first) - from : 0;
      const int64_t there = first + tile.rows - from;
      const int count = static_cast<int>(there < kTile ? there : kTile);
      __syncthreads();
      load(keys, count, [&](int r) { return memory.key(b, from + (r < skipped ? skipped : r), head); });
      load(values, count, [&](int r) { return memory.value(b, from + (r < skipped ? skipped : r), head); });
      __syncthreads();
      float own[kTile / kThreadsARow], largest = most;
#pragma unroll
      for (int n = 0; n < kTile / kThreadsARow; ++n) {
        const int j = n * kThreadsARow + part;
        const bool reads = row < tile.rows && j < count && memory.reads(position, from + j);
        own[n] = reads ? dot(queries[row], keys[j], D) * scale : -INFINITY;
        largest = fmaxf(largest, own[n]);
      }
      largest = row_max(largest);
      const bool nothing = largest == -INFINITY;
      const float kept = nothing ? 1 : expf(most - largest);
      float added = 0;
#pragma unroll
      for (int n = 0; n < kTile / kThreadsARow; ++n) {
        const float weight = nothing ? 0 : expf(own[n] - largest);
        scores[score_at(row, n * kThreadsARow + part)] = weight;
        added += weight;
      }
      sum = sum * kept + row_sum(added);
      most = largest;
      __syncwarp();
      for (int64_t c = part; c < D; c += kThreadsARow) {
        float value = output[row][c] * kept;
        for (int j = 0; j < count; ++j) value += scores[score_at(row, j)] * values[j][c];
        output[row][c] = value;
      }
      __syncwarp();
    }
    if (row >= tile.rows) return;
    for (int64_t c = part; c < D; c += kThreadsARow) y[tile.row + row][h * D + c] = output[row][c] / sum;
    if (lse && part == 0) lse[tile.row + row][h] = most + logf(sum);
  });
}

// Two launches, so that no sum needs atomics: blocks of queries make dq, blocks of keys make dk and dv.
void run(Context& context, const AttentionBackward& op) {
  const Memory memory = memory_of(op);
  const ScanTiles tiles(op.segments, kTile);
  const Rows q = rows_of(op.q), y = rows_of(op.y), lse = rows_of(op.lse), dy = rows_of(op.dy);
  const Rows dq = rows_of(op.dq), dk = rows_of(op.dk), dv = rows_of(op.dv), dpast = rows_of(op.dpast);
  const int64_t D = memory.D, heads = op.shape.heads;
  const float scale = 1 / std::sqrt(static_cast<float>(D));
  // dy . y of each query: what all its weights' gradients have in common.
  const Rows common = rows_of(scratch_tensor(context, op.q.rows, heads));
  for_each_row(op.q.rows * heads, [=] __device__(int64_t i, int lane) {
    const int64_t r = i / heads, h = i % heads;
    float sum = 0;
    for (int64_t c = lane; c < D; c += kWarpSize) sum += dy[r][h * D + c] * y[r][h * D + c];
    sum = warp_sum(sum);
    if (lane == 0) common[r][h] = sum;
  });
  launch<kThreads>({tiles.count, heads}, (5 * TileRows::floats(D) + kScores) * 4, [=] __device__() {
    const TileRows queries{dynamic_shared<float>(), D}, keys = queries.next(), values = keys.next();
    const TileRows gradients = values.next(), output = gradients.next();
    float* scores = output.next().data;
    const ScanTile tile = tiles.tiles[blockIdx.x];
    const int64_t b = tile.segment, h = blockIdx.y, head = h / memory.group;
    const int row = static_cast<int>(threadIdx.x) / kThreadsARow;
    const int part = static_cast<int>(threadIdx.x) % kThreadsARow;
    const int64_t first = memory.positions[b] + tile.row - memory.segments.begin(b);
    const int64_t position = first + row;
    load(queries, tile.rows, [&](int r) { return q[tile.row + r] + h * D; });
    load(gradients, tile.rows, [&](int r) { return dy[tile.row + r] + h * D; });
    for (int64_t c = part; c < D; c += kThreadsARow) output[row][c] = 0;
    const bool active = row < tile.rows;
    const float log_sum = active ? lse[tile.row + row][h] : 0;
    const float in_common = active ? common[tile.row + row][h] : 0;
    for (int64_t from = memory.first_key(first) / kTile * kTile; from < first + tile.rows; from += kTile) {
      const int64_t skipped = memory.first_key(first) > from ? memory.first_key(first) - from : 0;
      const int64_t there = first + tile.rows - from;
      const int count = static_cast<int>(there < kTile ? there : kTile);
      __syncthreads();
      load(keys, count, [&](int r) { return memory.key(b, from + (r < skipped ? skipped : r), head); });
      load(values, count, [&](int r) { return memory.value(b, from + (r < skipped ? skipped : r), head); });
      __syncthreads();
      for (int j = part; j < kTile; j += kThreadsARow) {
        float d = 0;
        if (active && j < count && memory.reads(position, from + j)) {
          // A weight is at most 1, but for rounding.
          const float weight = expf(fminf(dot(queries[row], keys[j], D) * scale - log_sum, 0));
          d = weight * (dot(gradients[row], values[j], D) - in_common) * scale;
        }
        scores[score_at(row, j)] = d;
      }
      __syncwarp();
      for (int64_t c = part; c < D; c += kThreadsARow) {
        float sum = output[row][c];
        for (int j = 0; j < count; ++j) sum += scores[score_at(row, j)] * keys[j][c];
        output[row][c] = sum;
      }
      __syncwarp();
    }
    for (int64_t c = part; active && c < D; c += kThreadsARow) dq[tile.row + row][h * D + c] = output[row][c];
  });

  // Tiles of positions: of all keys that a segment's queries read, those in its cache too.
  std::vector<int64_t> begins, ends;
  std::vector<int32_t> owners;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const int64_t position = op.positions[b], end = position + op.segments.length(b);
    const int64_t oldest = op.shape.window > 0 ? std::max<int64_t>(0, position - op.shape.window + 1) : 0;
    for (int64_t p = op.dpast ? oldest : position; p < end; p += kTile) {
      begins.push_back(p);
      ends.push_back(std::min(end, p + kTile));
      owners.push_back(static_cast<int32_t>(b));
    }
  }
  if (op.dpast)
    fill_zero(op.dpast.data, op.dpast.rows, op.dpast.cols * size_of(op.dpast.dtype),
              op.dpast.stride * size_of(op.dpast.dtype));
  const auto key_tiles = static_cast<int64_t>(begins.size());
  const int64_t *begin_of = staged(begins.data(), key_tiles), *end_of = staged(ends.data(), key_tiles);
  const int32_t* owner_of = staged(owners.data(), key_tiles);
  launch<kThreads>(
      {key_tiles, op.shape.kv_heads}, (6 * TileRows::floats(D) + 2 * kScores) * 4, [=] __device__() {
        const TileRows keys{dynamic_shared<float>(), D}, values = keys.next(), dkeys = values.next();
        const TileRows dvalues = dkeys.next(), queries = dvalues.next(), gradients = queries.next();
        float *weights = gradients.next().data, *dscores = weights + kScores;
        const int64_t from = begin_of[blockIdx.x], b = owner_of[blockIdx.x], head = blockIdx.y;
        const int count = static_cast<int>(end_of[blockIdx.x] - from);
        const int row = static_cast<int>(threadIdx.x) / kThreadsARow;  // of the keys
        const int part = static_cast<int>(threadIdx.x) % kThreadsARow;
        load(keys, count, [&](int r) { return memory.key(b, from + r, head); });
        load(values, count, [&](int r) { return memory.value(b, from + r, head); });
        for (int64_t c = part; c < D; c += kThreadsARow) dkeys[row][c] = dvalues[row][c] = 0;
        const int64_t start = memory.positions[b], end = start + memory.segments.length(b);
        for (int64_t h = head * memory.group; h < (head + 1) * memory.group; ++h) {
          for (int64_t at = from > start ? from : start; at < end; at += kTile) {
            if (memory.window > 0 && at >= from + count - 1 + memory.window)
              break;  // no query reads so far back
            const int rows = static_cast<int>(end - at < kTile ? end - at : kTile);
            __syncthreads();
            load(queries, rows, [&](int r) { return q[memory.own_row(b, at + r)] + h * D; });
            load(gradients, rows, [&](int r) { return dy[memory.own_row(b, at + r)] + h * D; });
            __syncthreads();
            for (int r = part; r < kTile; r += kThreadsARow) {
              float weight = 0, d = 0;
              if (r < rows && row < count && memory.reads(at + r, from + row)) {
                const int64_t own = memory.own_row(b, at + r);
                weight = expf(fminf(dot(queries[r], keys[row], D) * scale - lse[own][h], 0));
                d = weight * (dot(gradients[r], values[row], D) - common[own][h]) * scale;
              }
              weights[score_at(row, r)] = weight;
              dscores[score_at(row, r)] = d;
            }
            __syncwarp();
            for (int64_t c = part; c < D; c += kThreadsARow) {
              float of_key = dkeys[row][c], of_value = dvalues[row][c];
              for (int r = 0; r < rows; ++r) {
                of_key += dscores[score_at(row, r)] * queries[r][c];
                of_value += weights[score_at(row, r)] * gradients[r][c];
              }
              dkeys[row][c] = of_key;
              dvalues[row][c] = of_value;
            }
          }
        }
        if (row >= count) return;
        const int64_t p = from + row;
        float* to_key =
            head * D + (memory.own(b, p) ? dk[memory.own_row(b, p)] : dpast[b] + memory.cached(p));
        float* to_value = head * D + (memory.own(b, p) ? dv[memory.own_row(b, p)]
                                                       : dpast[b] + memory.cached(p) + memory.width);
        for (int64_t c = part; c < D; c += kThreadsARow) {
          to_key[c] = dkeys[row][c];
          to_value[c] = dvalues[row][c];
        }
      });
}

namespace {

// The row whose token a cache keeps in a place when the segment is over, or -1: the last that wrote there.
__device__ int64_t writer(const SegmentRows& segments, const int64_t* positions, int64_t b, int64_t place,
                          int64_t capacity) {
  const int64_t length = segments.length(b), last = positions[b] + length - 1;
  if (length == 0) return -1;
  const int64_t back = ((last - place) % capacity + capacity) % capacity;
  return back < length ? segments.begin(b) + length - 1 - back : -1;
}

}  // namespace

void run(Context&, const KeepKeys& op) {
  const Rows k = rows_of(op.k), v = rows_of(op.v), past = rows_of(op.past), after = rows_of(op.after);
  const SegmentRows segments = staged(op.segments);
  const int64_t* positions = staged(op.positions, op.segments.count);
  const int64_t width = op.k.cols, capacity = op.past.cols / (2 * width);
  if (op.past.data == op.after.data) {
    // Only what is new is written.
    for_each(op.k.size(), [=] __device__(int64_t i) {
      const int64_t r = i / width, c = i % width, b = segments.of(r), t = r - segments.begin(b);
      if (t < segments.length(b) - capacity) return;
      float* to = after[b] + (positions[b] + t) % capacity * 2 * width;
      to[c] = k[r][c];
      to[width + c] = v[r][c];
    });
    return;
  }
  const int64_t columns = op.past.cols;
  for_each(op.past.size(), [=] __device__(int64_t i) {
    const int64_t b = i / columns, n = i % columns, c = n % (2 * width);
    const int64_t r = writer(segments, positions, b, n / (2 * width), capacity);
    after[b][n] = r < 0 ? past[b][n] : c < width ? k[r][c] : v[r][c - width];
  });
}

void run(Context&, const KeepKeysBackward& op) {
  const Rows dk = rows_of(op.dk), dv = rows_of(op.dv), dafter = rows_of(op.dafter), dpast = rows_of(op.dpast);
  const SegmentRows segments = staged(op.segments);
  const int64_t* positions = staged(op.positions, op.segments.count);
  const int64_t width = op.dk.cols, columns = op.dafter.cols, capacity = columns / (2 * width);
  for_each(op.dafter.size(), [=] __device__(int64_t i) {
    const int64_t b = i / columns, n = i % columns, c = n % (2 * width);
    const int64_t r = writer(segments, positions, b, n / (2 * width), capacity);
    if (r < 0) {
      dpast[b][n] += dafter[b][n];
    } else {
      (c < width ? dk[r][c] : dv[r][c - width]) += dafter[b][n];
    }
  });
}

}  // namespace harmonic::cuda
