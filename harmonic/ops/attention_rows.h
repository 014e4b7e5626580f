// What the CPU's attention shares: where rows lie, and how the work is cut. Queries go by blocks, keys by
// tiles that are aligned to absolute positions: so the terms of a query's softmax are summed in one order,
// whatever the block it is in or the split of the text. A key that a query may not read has weight zero,
// which changes no sum.
#pragma once

#include <algorithm>
#include <cmath>

#include "harmonic/ops/attention.h"
#include "harmonic/ops/matmul_worker.h"

namespace harmonic {

constexpr int64_t kQueries = 128;  // of a block
constexpr int64_t kKeys = 64;      // of a tile

// The keys [begin, end) of a tile of `count` that a query reads.
struct Readable {
  int64_t begin, end;
};

namespace cpu {

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

// Queries of one head at the positions [begin, end) of a segment.
struct QueryBlock {
  int64_t b, h, begin, end;
};

// Blocks before each segment, count + 1 values.
inline const int64_t* blocks_before(Arena& scratch, const Segments& segments) {
  auto* before = scratch.allocate_array<int64_t>(segments.count + 1);
  before[0] = 0;
  for (int64_t b = 0; b < segments.count; ++b)
    before[b + 1] = before[b] + ceil_div(segments.length(b), kQueries);
  return before;
}

template <typename Op, typename Body>
void for_each_query_block(Context& context, const Op& op, const Body& body) {
  const ArenaScope scope(context.scratch);
  const Rows<Op> rows{op};
  const int64_t* before = blocks_before(context.scratch, op.segments);
  const int64_t blocks = before[op.segments.count], H = op.shape.heads;
  // The longest come first, so that no thread is left alone with one at the end.
  for_each_with_worker(context, blocks * H, op.q.size() * kKeys, [&](int64_t i, MatmulWorker& worker) {
    const int64_t block = blocks - 1 - i / H;
    const int64_t b = std::upper_bound(before, before + op.segments.count + 1, block) - before - 1;
    const int64_t begin = rows.first(b) + (block - before[b]) * kQueries;
    body(QueryBlock{b, i % H, begin, std::min(rows.end(b), begin + kQueries)}, worker);
  });
}

template <typename Op>
void check_attention(const Op& op) {
  HARMONIC_ASSERT(op.shape.heads % op.shape.kv_heads == 0 && op.q.cols % op.shape.heads == 0);
  HARMONIC_ASSERT(op.k.cols == op.q.cols / op.shape.heads * op.shape.kv_heads && same_shape(op.k, op.v));
  for (int64_t b = 0; b < op.segments.count; ++b) {
    if (op.positions[b] == 0) continue;
    HARMONIC_ASSERT(op.past && op.past.rows == op.segments.count && op.past.cols % (2 * op.k.cols) == 0);
  }
}

// Attention where no segment has two queries and D is a multiple of 4, as when texts are generated.
void attend_one_query_each(Context& context, const Attention& op);

}  // namespace cpu
}  // namespace harmonic
