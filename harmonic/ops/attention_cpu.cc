// Queries go by blocks, keys by tiles that are aligned to absolute positions: so the terms of a query's
// softmax are summed in one order, whatever the block it is in or the split of the text. A key that a query
// may not read has weight zero, which changes no sum. Scores and their gradients are matrix products of a
// block and a tile.
#include "harmonic/ops/attention.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/attention_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>
#include <cmath>

#include "harmonic/ops/attention_few-inl.h"
#include "harmonic/ops/simd_math-inl.h"

#ifndef HARMONIC_OPS_ATTENTION_CPU_ONCE_
#define HARMONIC_OPS_ATTENTION_CPU_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kQueries = 128;  // of a block
constexpr int64_t kKeys = 64;      // of a tile
constexpr int64_t kFew = 8;        // queries, up to which keys and values are read where they lie

// The keys [begin, end) of a tile of `count` that a query reads.
struct Readable {
  int64_t begin, end;
};

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// Takes a tile's scores into a query's softmax: they become weights relative to the largest score so far,
// `output` (D numbers) and `sum` are brought to the same scale. scores has kKeys numbers.
void SoftmaxTile(Readable readable, float scale, int64_t D, float* scores, float& largest, float& sum,
                 float* output) {
  const hn::CappedTag<float, 16> d;
  std::fill(scores, scores + readable.begin, 0.0f);
  std::fill(scores + std::max(readable.begin, readable.end), scores + kKeys, 0.0f);
  if (readable.begin >= readable.end) {
    std::fill_n(scores, kKeys, 0.0f);
    return;
  }
  float* first = scores + readable.begin;
  const int64_t count = readable.end - readable.begin;
  const auto s = hn::Set(d, scale);
  ForEach(d, count, Out(first), In(first), [s](auto v, auto& scaled) HWY_ATTR { scaled = hn::Mul(v, s); });
  const float now = std::max(largest, MaxOf(d, count, first));
  float rescale = 0;
  const float change = largest - now;  // -infinity at the first tile
  ForEach(d, 1, Out(&rescale), In(&change), [d](auto v, auto& r) HWY_ATTR { r = ExpOfNegative(d, v); });
  const auto m = hn::Set(d, now);
  ForEach(d, count, Out(first), In(first),
          [d, m](auto v, auto& weight) HWY_ATTR { weight = ExpOfNegative(d, hn::Sub(v, m)); });
  // Over the whole tile, so that a term's place among the partial sums does not depend on the window.
  const float added = SumOf(d, kKeys, In(scores), [](auto v, auto& term) HWY_ATTR { term = v; });
  sum = sum * rescale + added;
  largest = now;
  const auto r = hn::Set(d, rescale);
  if (rescale != 1.0f)
    ForEach(d, D, Out(output), In(output), [r](auto v, auto& out) HWY_ATTR { out = hn::Mul(v, r); });
}

// y = output / sum; gives the log of the sum of exponentials. Zeros come out as +0 whatever their sign was.
float FinishRow(float largest, float sum, int64_t D, const float* output, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto divisor = hn::Set(d, sum);
  ForEach(d, D, Out(y), In(output),
          [d, divisor](auto v, auto& out) HWY_ATTR { out = hn::Add(hn::Div(v, divisor), hn::Zero(d)); });
  float log = 0;
  ForEach(d, 1, Out(&log), In(&sum), [d](auto v, auto& out) HWY_ATTR { out = Log(d, v); });
  return largest + log;
}

// Scores become weights, and dweights (the gradient of the weights) that of the scores before scaling.
void SoftmaxTileBackward(Readable readable, float scale, float lse, float shared, float* scores,
                         float* dweights) {
  const hn::CappedTag<float, 16> d;
  const auto s = hn::Set(d, scale), l = hn::Set(d, lse), delta = hn::Set(d, shared);
  ForEach(d, kKeys, Out(scores, dweights), In(scores, dweights),
          [=](auto score, auto dweight, auto& weight, auto& dscore) HWY_ATTR {
            weight = ExpOfNegative(d, hn::Min(hn::Zero(d), hn::Sub(hn::Mul(score, s), l)));
            dscore = hn::Mul(hn::Mul(weight, hn::Sub(dweight, delta)), s);
          });
  const auto clear = [&](int64_t from, int64_t to) {
    if (from >= to) return;
    std::fill(scores + from, scores + to, 0.0f);
    std::fill(dweights + from, dweights + to, 0.0f);
  };
  clear(0, std::min(readable.begin, kKeys));
  clear(std::max<int64_t>(0, readable.end), kKeys);
}

float Dot(int64_t count, const float* a, const float* b) {
  return DotProduct(hn::CappedTag<float, 16>(), count, a, b);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/matmul_worker.h"
#include "harmonic/ops/row_math.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(SoftmaxTile);
HWY_EXPORT(FinishRow);
HWY_EXPORT(SoftmaxTileBackward);
HWY_EXPORT(Dot);
HWY_EXPORT(FewTakes);
HWY_EXPORT(FewScores);
HWY_EXPORT(FewValues);

// Where the rows of an op lie, by positions.
template <typename Op>
struct Rows {
  const Op& op;

  int64_t D() const { return op.q.cols / op.shape.heads; }
  int64_t group() const { return op.shape.heads / op.shape.kv_heads; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(D())); }
  int64_t first(int64_t b) const { return op.positions[b]; }
  int64_t end(int64_t b) const { return op.positions[b] + op.segments.length(b); }
  int64_t own_row(int64_t b, int64_t p) const { return op.segments.begin(b) + p - first(b); }
  int64_t capacity() const { return op.past.cols / (2 * op.k.cols); }
  // The numbers of the cache row of position p.
  float* cached(const Tensor& caches, int64_t b, int64_t p) const {
    return caches.template row<float>(b) + p % capacity() * 2 * op.k.cols;
  }
  // The first key that a query at p reads, and the first tile that a block of queries from p on reads.
  int64_t first_key(int64_t p) const {
    return op.shape.window > 0 ? std::max<int64_t>(0, p - op.shape.window + 1) : 0;
  }
  int64_t first_tile(int64_t p) const { return first_key(p) / kKeys * kKeys; }
  Readable readable(int64_t p, int64_t tile, int64_t count) const {
    return {std::clamp<int64_t>(first_key(p) - tile, 0, kKeys), std::min(count, p + 1 - tile)};
  }

  // The keys, or the values, of head g at positions [tile, tile + count): where they lie, or a copy in
  // `copy`.
  MatrixView tile_of(bool values, int64_t b, int64_t g, int64_t tile, int64_t count, float* copy) const {
    const Tensor& own = values ? op.v : op.k;
    const int64_t column = g * D(), past_column = (values ? op.k.cols : 0) + column;
    if (tile >= first(b)) return rows_view(own.template row<float>(own_row(b, tile)) + column, own.stride);
    if (tile + count <= first(b) && tile % capacity() + count <= capacity())
      return rows_view(cached(op.past, b, tile) + past_column, 2 * op.k.cols);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t p = tile + j;
      std::copy_n(p >= first(b) ? own.template row<float>(own_row(b, p)) + column
                                : cached(op.past, b, p) + past_column,
                  D(), copy + j * D());
    }
    return rows_view(copy, D());
  }
};

// Queries that one piece of work has: of one head at the positions [begin, end), or at one position of
// several heads from h on that read the same keys.
struct QueryBlock {
  int64_t b, h, begin, end;
  int64_t heads = 1;

  int64_t rows() const { return (end - begin) * heads; }
  int64_t position(int64_t m) const { return heads == 1 ? begin + m : begin; }
};

// Blocks before each segment, count + 1 values.
const int64_t* blocks_before(Arena& scratch, const Segments& segments) {
  auto* before = scratch.allocate_array<int64_t>(segments.count + 1);
  before[0] = 0;
  for (int64_t b = 0; b < segments.count; ++b)
    before[b + 1] = before[b] + ceil_div(segments.length(b), kQueries);
  return before;
}

// With `heads` heads in each piece of work: one, or a whole group where no segment has two queries.
template <typename Op, typename Body>
void for_each_query_block(Context& context, const Op& op, int64_t heads, const Body& body) {
  const ArenaScope scope(context.scratch);
  const Rows<Op> rows{op};
  const int64_t* before = blocks_before(context.scratch, op.segments);
  const int64_t blocks = before[op.segments.count], pieces = op.shape.heads / heads;
  // The longest come first, so that no thread is left alone with one at the end.
  for_each_with_worker(context, blocks * pieces, op.q.size() * kKeys, [&](int64_t i, MatmulWorker& worker) {
    const int64_t block = blocks - 1 - i / pieces;
    const int64_t b = std::upper_bound(before, before + op.segments.count + 1, block) - before - 1;
    const int64_t begin = rows.first(b) + (block - before[b]) * kQueries;
    body(QueryBlock{b, i % pieces * heads, begin, std::min(rows.end(b), begin + kQueries), heads}, worker);
  });
}

void forward_block(const Attention& op, const QueryBlock& block, MatmulWorker& worker) {
  const Rows<Attention> rows{op};
  const int64_t D = rows.D(), g = block.h / rows.group(), count = block.rows();
  float* scores = worker.memory.allocate_array<float>(count * kKeys);
  float* output = worker.memory.zeros(count, D, DType::f32).as<float>();
  float* copy = worker.memory.allocate_array<float>(2 * kKeys * D);
  float* largest = worker.memory.allocate_array<float>(count);
  float* sum = worker.memory.allocate_array<float>(count);
  std::fill_n(largest, count, -INFINITY);
  std::fill_n(sum, count, 0.0f);
  const int64_t row = rows.own_row(block.b, block.begin);
  const bool one_head = block.heads == 1;
  const MatrixView q = rows_view(op.q.row<float>(row) + block.h * D, one_head ? op.q.stride : D);
  const bool few = count <= kFew && HWY_DYNAMIC_DISPATCH(FewTakes)(D);
  for (int64_t tile = rows.first_tile(block.begin); tile < block.end; tile += kKeys) {
    const int64_t keys = std::min(kKeys, block.end - tile);
    const MatrixView k = rows.tile_of(false, block.b, g, tile, keys, copy);
    const MatrixView v = rows.tile_of(true, block.b, g, tile, keys, copy + kKeys * D);
    if (few) {
      HWY_DYNAMIC_DISPATCH(FewScores)
      (count, keys, D, q.data, q.row_stride, k.data, k.row_stride, scores, kKeys);
    } else {
      worker.multiply(count, keys, D, q, k.transposed(), scores, kKeys);
    }
    for (int64_t m = 0; m < count; ++m) HWY_DYNAMIC_DISPATCH(SoftmaxTile)
    (rows.readable(block.position(m), tile, keys), rows.scale(), D, scores + m * kKeys, largest[m], sum[m],
     output + m * D);
    if (few) {
      HWY_DYNAMIC_DISPATCH(FewValues)
      (count, keys, D, scores, kKeys, v.data, v.row_stride, output);
    } else {
      worker.multiply(count, D, keys, rows_view(scores, kKeys), v, output, D, MatmulMode::accumulate);
    }
  }
  for (int64_t m = 0; m < count; ++m) {
    const int64_t r = one_head ? row + m : row, h = one_head ? block.h : block.h + m;
    const float lse =
        HWY_DYNAMIC_DISPATCH(FinishRow)(largest[m], sum[m], D, output + m * D, op.y.row<float>(r) + h * D);
    if (op.lse) op.lse.row<float>(r)[h] = lse;
  }
}

// Weights and gradients of the scores of a block of queries against a tile of keys.
struct ScoreGradients {
  float *weights, *dscores;  // [queries, kKeys]
};

ScoreGradients score_gradients(const AttentionBackward& op, const QueryBlock& block, int64_t tile,
                               int64_t keys, MatrixView k, MatrixView v, const float* shared,
                               MatmulWorker& worker) {
  const Rows<AttentionBackward> rows{op};
  const int64_t D = rows.D(), count = block.end - block.begin, row = rows.own_row(block.b, block.begin);
  ScoreGradients result{worker.memory.allocate_array<float>(count * kKeys),
                        worker.memory.zeros(count, kKeys, DType::f32).as<float>()};
  std::fill_n(result.weights, count * kKeys, 0.0f);
  worker.multiply(count, keys, D, rows_view(op.q.row<float>(row) + block.h * D, op.q.stride), k.transposed(),
                  result.weights, kKeys);
  worker.multiply(count, keys, D, rows_view(op.dy.row<float>(row) + block.h * D, op.dy.stride),
                  v.transposed(), result.dscores, kKeys);
  for (int64_t m = 0; m < count; ++m) HWY_DYNAMIC_DISPATCH(SoftmaxTileBackward)
  (rows.readable(block.begin + m, tile, keys), rows.scale(), op.lse.row<float>(row + m)[block.h],
   shared[(row + m) * op.shape.heads + block.h], result.weights + m * kKeys, result.dscores + m * kKeys);
  return result;
}

void query_gradients(const AttentionBackward& op, const QueryBlock& block, const float* shared,
                     MatmulWorker& worker) {
  const Rows<AttentionBackward> rows{op};
  const int64_t D = rows.D(), g = block.h / rows.group(), count = block.end - block.begin;
  float* copy = worker.memory.allocate_array<float>(2 * kKeys * D);
  float* dq = op.dq.row<float>(rows.own_row(block.b, block.begin)) + block.h * D;
  MatmulMode mode = MatmulMode::overwrite;
  for (int64_t tile = rows.first_tile(block.begin); tile < block.end; tile += kKeys) {
    const ArenaScope scope(worker.memory);
    const int64_t keys = std::min(kKeys, block.end - tile);
    const MatrixView k = rows.tile_of(false, block.b, g, tile, keys, copy);
    const MatrixView v = rows.tile_of(true, block.b, g, tile, keys, copy + kKeys * D);
    const ScoreGradients gradients = score_gradients(op, block, tile, keys, k, v, shared, worker);
    worker.multiply(count, D, keys, rows_view(gradients.dscores, kKeys), k, dq, op.dq.stride, mode);
    mode = MatmulMode::accumulate;
  }
}

// Of the keys and values of head g at the positions of a tile, from all queries that read them, in order.
void key_gradients(const AttentionBackward& op, int64_t b, int64_t g, int64_t tile, const float* shared,
                   MatmulWorker& worker) {
  const Rows<AttentionBackward> rows{op};
  const int64_t D = rows.D(), keys = std::min(kKeys, rows.end(b) - tile), width = op.k.cols;
  float* copy = worker.memory.allocate_array<float>(2 * kKeys * D);
  float* dk = worker.memory.zeros(keys, D, DType::f32).as<float>();
  float* dv = worker.memory.zeros(keys, D, DType::f32).as<float>();
  const MatrixView k = rows.tile_of(false, b, g, tile, keys, copy);
  const MatrixView v = rows.tile_of(true, b, g, tile, keys, copy + kKeys * D);
  // Blocks begin where the segment does, as forward has them; the last query that reads the tile's last key:
  const int64_t from = rows.first(b) + std::max<int64_t>(0, tile - rows.first(b)) / kQueries * kQueries;
  const int64_t to =
      op.shape.window > 0 ? std::min(rows.end(b), tile + keys - 1 + op.shape.window) : rows.end(b);
  for (int64_t h = g * rows.group(); h < (g + 1) * rows.group(); ++h) {
    for (int64_t begin = from; begin < to; begin += kQueries) {
      const ArenaScope scope(worker.memory);
      const QueryBlock block{b, h, begin, std::min(rows.end(b), begin + kQueries)};
      const int64_t count = block.end - block.begin, row = rows.own_row(b, begin);
      const ScoreGradients gradients = score_gradients(op, block, tile, keys, k, v, shared, worker);
      worker.multiply(keys, D, count, rows_view(gradients.weights, kKeys).transposed(),
                      rows_view(op.dy.row<float>(row) + h * D, op.dy.stride), dv, D, MatmulMode::accumulate);
      worker.multiply(keys, D, count, rows_view(gradients.dscores, kKeys).transposed(),
                      rows_view(op.q.row<float>(row) + h * D, op.q.stride), dk, D, MatmulMode::accumulate);
    }
  }
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t p = tile + j;
    if (p >= rows.first(b)) {
      std::copy_n(dk + j * D, D, op.dk.row<float>(rows.own_row(b, p)) + g * D);
      std::copy_n(dv + j * D, D, op.dv.row<float>(rows.own_row(b, p)) + g * D);
    } else if (op.dpast && p >= rows.first_key(rows.first(b))) {
      row_math::put(dk + j * D, true, rows.cached(op.dpast, b, p) + g * D, D);
      row_math::put(dv + j * D, true, rows.cached(op.dpast, b, p) + width + g * D, D);
    }
  }
}

template <typename Op>
void check(const Op& op) {
  HARMONIC_ASSERT(op.shape.heads % op.shape.kv_heads == 0 && op.q.cols % op.shape.heads == 0);
  HARMONIC_ASSERT(op.k.cols == op.q.cols / op.shape.heads * op.shape.kv_heads && same_shape(op.k, op.v));
  for (int64_t b = 0; b < op.segments.count; ++b) {
    if (op.positions[b] == 0) continue;
    HARMONIC_ASSERT(op.past && op.past.rows == op.segments.count && op.past.cols % (2 * op.k.cols) == 0);
  }
}

}  // namespace

void run(Context& context, const Attention& op) {
  check(op);
  // In decoding the heads that share keys go together, which are packed for products once then; unless that
  // leaves threads without work.
  bool together = op.segments.count * op.shape.kv_heads >= context.pool.threads();
  for (int64_t b = 0; b < op.segments.count; ++b) together = together && op.segments.length(b) <= 1;
  for_each_query_block(
      context, op, together ? op.shape.heads / op.shape.kv_heads : 1,
      [&](const QueryBlock& block, MatmulWorker& worker) { forward_block(op, block, worker); });
}

void run(Context& context, const AttentionBackward& op) {
  check(op);
  const ArenaScope scope(context.scratch);
  const Rows<AttentionBackward> rows{op};
  const int64_t D = rows.D(), H = op.shape.heads, G = op.shape.kv_heads;
  for (int64_t b = 0; b < op.dpast.rows; ++b)
    row_math::put(nullptr, false, op.dpast.row<float>(b), op.dpast.cols);
  // What the gradient of every score of a query shares: dy . y.
  float* shared = context.scratch.allocate_array<float>(op.q.rows * H);
  context.pool.parallel_ranges(
      op.q.rows, ceil_div(kElementGrain, op.q.cols), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
          for (int64_t h = 0; h < H; ++h)
            shared[r * H + h] =
                HWY_DYNAMIC_DISPATCH(Dot)(D, op.dy.row<float>(r) + h * D, op.y.row<float>(r) + h * D);
      });
  for_each_query_block(context, op, 1, [&](const QueryBlock& block, MatmulWorker& worker) {
    query_gradients(op, block, shared, worker);
  });
  // Tiles of keys of each segment, from the first that a query reads to its end.
  auto* before = context.scratch.allocate_array<int64_t>(op.segments.count + 1);
  before[0] = 0;
  const auto first_tile = [&](int64_t b) {
    return op.dpast ? rows.first_tile(rows.first(b)) : rows.first(b) / kKeys * kKeys;
  };
  for (int64_t b = 0; b < op.segments.count; ++b)
    before[b + 1] =
        before[b] + (op.segments.length(b) > 0 ? ceil_div(rows.end(b) - first_tile(b), kKeys) : 0);
  for_each_with_worker(
      context, before[op.segments.count] * G, op.q.size() * kKeys, [&](int64_t i, MatmulWorker& worker) {
        const int64_t b = std::upper_bound(before, before + op.segments.count + 1, i / G) - before - 1;
        key_gradients(op, b, i % G, first_tile(b) + (i / G - before[b]) * kKeys, shared, worker);
      });
}

void run(Context& context, const KeepKeys& op) {
  const int64_t width = op.k.cols, capacity = op.past.cols / (2 * width);
  context.pool.parallel_ranges(op.segments.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* after = op.after.row<float>(b);
      if (op.after.data != op.past.data) row_math::put(op.past.row<float>(b), false, after, op.past.cols);
      for (int64_t t = std::max<int64_t>(0, op.segments.length(b) - capacity); t < op.segments.length(b);
           ++t) {
        float* row = after + (op.positions[b] + t) % capacity * 2 * width;
        std::copy_n(op.k.row<float>(op.segments.begin(b) + t), width, row);
        std::copy_n(op.v.row<float>(op.segments.begin(b) + t), width, row + width);
      }
    }
  });
}

void run(Context& context, const KeepKeysBackward& op) {
  const int64_t width = op.dk.cols, capacity = op.dafter.cols / (2 * width);
  context.pool.parallel_ranges(op.segments.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      // Kept are the last tokens, in rows that follow each other and may wrap; the rest was passed on.
      const int64_t length = op.segments.length(b), kept = std::min(length, capacity);
      const int64_t first = (op.positions[b] + length - kept) % capacity;
      for (int64_t i = 0; i < capacity; ++i) {
        const float* gradient = op.dafter.row<float>(b) + (first + i) % capacity * 2 * width;
        if (i >= kept) {
          row_math::put(gradient, true, op.dpast.row<float>(b) + (first + i) % capacity * 2 * width,
                        2 * width);
          continue;
        }
        const int64_t r = op.segments.begin(b) + length - kept + i;
        row_math::put(gradient, true, op.dk.row<float>(r), width);
        row_math::put(gradient + width, true, op.dv.row<float>(r), width);
      }
    }
  });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
