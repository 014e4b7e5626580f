// Backward. Scores and their gradients are matrix products of a block of queries and a tile of keys. Where
// there are heads and segments enough for all threads, each is a thread's: a tile after the other, and of
// each the gradients of its keys and of the queries that read it. Else a piece of work has the gradients of a
// block of queries or of a tile of keys, and computes anew what both need. The bits are the same: every
// gradient is added up in one order, by tiles and by blocks.
#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/attention_backward_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/attention_rows.h"
#include "harmonic/ops/row_math.h"
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

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

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic::cpu {
namespace {

HWY_EXPORT(SoftmaxTileBackward);

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
                        worker.memory.allocate_array<float>(count * kKeys)};
  if (keys < kKeys)
    for (float* scores : {result.weights, result.dscores}) std::fill_n(scores, count * kKeys, 0.0f);
  worker.multiply(count, keys, D, rows_view(op.q.row<float>(row) + block.h * D, op.q.stride), k.transposed(),
                  result.weights, kKeys);
  worker.multiply(count, keys, D, rows_view(op.dy.row<float>(row) + block.h * D, op.dy.stride),
                  v.transposed(), result.dscores, kKeys);
  for (int64_t m = 0; m < count; ++m) HWY_DYNAMIC_DISPATCH(SoftmaxTileBackward)
  (rows.readable(block.begin + m, tile, keys), rows.scale(), op.lse.row<float>(row + m)[block.h],
   shared[(row + m) * op.shape.heads + block.h], result.weights + m * kKeys, result.dscores + m * kKeys);
  return result;
}

// The queries of a block that read something of a tile: those before it do not.
QueryBlock readers(const QueryBlock& block, int64_t tile) {
  return {block.b, block.h, std::max(block.begin, tile), block.end};
}

// Adds the part of a tile to the gradients of the queries that read it; the first tile of the whole block
// overwrites them.
void add_query_gradients(const AttentionBackward& op, const QueryBlock& block, int64_t tile, MatrixView k,
                         const ScoreGradients& gradients, MatmulWorker& worker) {
  const Rows<AttentionBackward> rows{op};
  const int64_t D = rows.D(), begin = readers(block, tile).begin;
  worker.multiply(block.end - begin, D, std::min(kKeys, block.end - tile),
                  rows_view(gradients.dscores, kKeys), k,
                  op.dq.row<float>(rows.own_row(block.b, begin)) + block.h * D, op.dq.stride,
                  tile == rows.first_tile(block.begin) ? MatmulMode::overwrite : MatmulMode::accumulate);
}

void query_gradients(const AttentionBackward& op, const QueryBlock& block, const float* shared,
                     MatmulWorker& worker) {
  const Rows<AttentionBackward> rows{op};
  const int64_t D = rows.D(), g = block.h / rows.group();
  float* copy = worker.memory.allocate_array<float>(2 * kKeys * D);
  for (int64_t tile = rows.first_tile(block.begin); tile < block.end; tile += kKeys) {
    const ArenaScope scope(worker.memory);
    const int64_t keys = std::min(kKeys, block.end - tile);
    const MatrixView k = rows.tile_of(false, block.b, g, tile, keys, copy);
    const MatrixView v = rows.tile_of(true, block.b, g, tile, keys, copy + kKeys * D);
    const ScoreGradients gradients =
        score_gradients(op, readers(block, tile), tile, keys, k, v, shared, worker);
    add_query_gradients(op, block, tile, k, gradients, worker);
  }
}

// Of the keys and values of head g at the positions of a tile, from all queries that read them, in order; and
// the tile's part of the gradients of these where `and_queries` is set.
void key_gradients(const AttentionBackward& op, int64_t b, int64_t g, int64_t tile, bool and_queries,
                   const float* shared, MatmulWorker& worker) {
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
      const QueryBlock reading = readers(block, tile);
      const int64_t count = reading.end - reading.begin, row = rows.own_row(b, reading.begin);
      const ScoreGradients gradients = score_gradients(op, reading, tile, keys, k, v, shared, worker);
      worker.multiply(keys, D, count, rows_view(gradients.weights, kKeys).transposed(),
                      rows_view(op.dy.row<float>(row) + h * D, op.dy.stride), dv, D, MatmulMode::accumulate);
      worker.multiply(keys, D, count, rows_view(gradients.dscores, kKeys).transposed(),
                      rows_view(op.q.row<float>(row) + h * D, op.q.stride), dk, D, MatmulMode::accumulate);
      if (and_queries) add_query_gradients(op, block, tile, k, gradients, worker);
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

// Whether the groups of heads of all segments, each a thread's, keep so many threads busy enough: by pieces
// there are seven products where these take five.
bool has_heads_for_all(const AttentionBackward& op, int64_t threads) {
  const Rows<AttentionBackward> rows{op};
  double all = 0, largest = 0;  // scores
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const auto length = static_cast<double>(op.segments.length(b));
    const double scores =
        length * (static_cast<double>(rows.end(b)) - static_cast<double>(rows.first_key(rows.first(b))));
    all += scores;
    largest = std::max(largest, scores);
  }
  if (all == 0) return true;
  // As many as there are if all were as large as the largest.
  const auto alike = static_cast<int64_t>(all / largest) * op.shape.kv_heads;
  return 5 * ceil_div(alike, threads) * threads <= 7 * alike;
}

}  // namespace

void run(Context& context, const AttentionBackward& op) {
  check_attention(op);
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
            shared[r * H + h] = row_math::dot(op.dy.row<float>(r) + h * D, op.y.row<float>(r) + h * D, D);
      });
  if (has_heads_for_all(op, context.pool.threads())) {
    const int64_t items = op.segments.count * G;
    for_each_with_worker(context, items, op.q.size() * kKeys, [&](int64_t i, MatmulWorker& worker) {
      const int64_t b = i / G;
      if (op.segments.length(b) == 0) return;
      for (int64_t tile = rows.first_tile(rows.first(b)); tile < rows.end(b); tile += kKeys) {
        const ArenaScope of_tile(worker.memory);
        key_gradients(op, b, i % G, tile, true, shared, worker);
      }
    });
    return;
  }
  for_each_query_block(context, op, [&](const QueryBlock& block, MatmulWorker& worker) {
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
        key_gradients(op, b, i % G, first_tile(b) + (i / G - before[b]) * kKeys, false, shared, worker);
      });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
