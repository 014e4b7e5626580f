// What attention on a card shares: which keys a segment's queries read and where these lie, which tiles there
// are, and how a warp's sums are written.
//
// Within a segment a key has the index of its position less that of the oldest key that is read; query i
// reads keys up to first + i, all, or the last `window` of them.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "harmonic/ops/attention.h"
#include "harmonic/ops/cuda_tile_products.h"

namespace harmonic::cuda {

// So many numbers of a head find room in the memory that a block's threads share.
inline constexpr int64_t kWidestHead = 256;
inline constexpr int kPadding = 128;       // every tile's rows divide it
inline constexpr int64_t kFewQueries = 8;  // of a segment: up to here it is not worth a tile forward

// Weights are powers of two: queries are packed times 1 / sqrt(D) times log2 e, so that scores are exponents.
inline constexpr float kLn2 = 0.693147181f;

// A segment that takes part. A cache has room for all keys of a segment that are not of this call, so that
// they go round once at most.
struct AttentionSegment {
  int64_t segment;               // of the op's
  int64_t row;                   // the first, of the caller's
  int64_t oldest_row;            // of key 0 in the cache
  int64_t queries_at, keys_at;   // the first packed row
  int32_t queries, keys, first;  // first: of the keys that are of this call, in a cache before
};

__device__ inline int64_t cache_row(const AttentionSegment& s, int64_t key, int64_t capacity) {
  const int64_t row = s.oldest_row + key;
  return row < capacity ? row : row - capacity;
}

// Of the queries or the keys of plan.segments[segment], from this one on.
struct AttentionTile {
  int32_t segment, from;
};

// Which keys a query reads, by their indices within a segment; window is kNoWindow where all before it are.
inline constexpr int kNoWindow = INT32_MAX;
struct Reach {
  int first, window;
  __device__ int first_key(int query) const {
    const int before = first + query - window + 1;
    return before > 0 ? before : 0;
  }
  __device__ bool reads(int query, int key) const {
    return static_cast<unsigned>(first + query - key) < static_cast<unsigned>(window);
  }
};

inline float softmax_scale(int64_t D) { return 1 / std::sqrt(static_cast<float>(D)); }

// Rows of a cache.
template <typename Op>
int64_t capacity_of(const Op& op) {
  return op.past ? op.past.cols / (2 * op.k.cols) : 1;
}

// Where a key or value of a segment lies that is not packed.
struct KeyRows {
  Rows own = {}, past = {};
  int64_t width = 0, capacity = 1;
  int64_t column = 0;  // of a cache row, where what is asked for begins
  __device__ const float* at(const AttentionSegment& s, int64_t key) const {
    return key >= s.first ? own[s.row + key - s.first]
                          : past[s.segment] + cache_row(s, key, capacity) * 2 * width + column;
  }
};
template <typename Op>
KeyRows key_rows(const Op& op, bool values) {
  const int64_t width = op.k.cols;
  return {rows_of(values ? op.v : op.k), rows_of(op.past), width, capacity_of(op), values ? width : 0};
}

// What is decided by lengths alone, on the program's side.
struct AttentionPlan {
  std::vector<AttentionSegment> segments;
  int64_t query_rows = 0, key_rows = 0;  // packed
  int window = kNoWindow;

  // Of the segments that have so many queries at least.
  template <typename Op>
  AttentionPlan(const Op& op, int64_t least_queries) {
    if (const int64_t D = op.q.cols / op.shape.heads; D > kWidestHead)
      fail("attention on a card: a head has {} numbers, expected {} at most; --device cpu has no limit", D,
           kWidestHead);
    constexpr int64_t kMost = INT32_MAX - 2 * kPadding;
    if (op.shape.window > 0 && op.shape.window < kNoWindow) window = static_cast<int>(op.shape.window);
    for (int64_t b = 0; b < op.segments.count; ++b) {
      const int64_t queries = op.segments.length(b), position = op.positions[b];
      if (queries == 0 || queries < least_queries) continue;
      const int64_t oldest = op.past ? std::max<int64_t>(0, position - window + 1) : position;
      const int64_t first = position - oldest, keys = first + queries;
      if (keys > kMost)
        fail("attention on a card: {} keys, expected {} at most; --device cpu has no limit", keys, kMost);
      segments.push_back({b, op.segments.begin(b), oldest % capacity_of(op), query_rows, key_rows,
                          static_cast<int32_t>(queries), static_cast<int32_t>(keys),
                          static_cast<int32_t>(first)});
      query_rows += padded(queries);
      key_rows += padded(keys);
    }
  }
  static int64_t padded(int64_t rows) { return (rows + kPadding - 1) / kPadding * kPadding; }

  // Tiles of so many queries, those that read the most keys first: what is left to the end is short.
  std::vector<AttentionTile> tiles_of_queries(int rows) const {
    Ordered tiles;
    for (size_t i = 0; i < segments.size(); ++i) {
      const AttentionSegment& s = segments[i];
      for (int64_t from = 0; from < s.queries; from += rows) {
        const int64_t end = s.first + std::min<int64_t>(from + rows, s.queries);
        const int64_t begin = std::max<int64_t>(0, s.first + from - window + 1);
        tiles.add({static_cast<int32_t>(i), static_cast<int32_t>(from)}, end - begin);
      }
    }
    return tiles.most_work_first();
  }
  // Tiles of so many keys, of all or of those of this call.
  std::vector<AttentionTile> tiles_of_keys(int rows, bool cached_too) const {
    Ordered tiles;
    for (size_t i = 0; i < segments.size(); ++i) {
      const AttentionSegment& s = segments[i];
      for (int64_t from = cached_too ? 0 : s.first / rows * rows; from < s.keys; from += rows) {
        const int64_t begin = std::max<int64_t>(0, from - s.first);
        const int64_t end = std::min<int64_t>(s.queries, from + rows - 1 + int64_t{window} - s.first);
        tiles.add({static_cast<int32_t>(i), static_cast<int32_t>(from)}, end - begin);
      }
    }
    return tiles.most_work_first();
  }

 private:
  struct Ordered {
    std::vector<AttentionTile> tiles;
    std::vector<int64_t> work;
    void add(const AttentionTile& tile, int64_t of_work) {
      tiles.push_back(tile);
      work.push_back(of_work);
    }
    std::vector<AttentionTile> most_work_first() const {
      std::vector<size_t> order(tiles.size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return work[a] > work[b]; });
      std::vector<AttentionTile> result;
      for (const size_t i : order) result.push_back(tiles[i]);
      return result;
    }
  };
};

// Whether each head's numbers in each row begin at a multiple of 16 bytes.
inline bool by_fours(const Tensor& tensor, int64_t D) { return lies_in_packs(tensor) && D % 4 == 0; }

// Four numbers of a row, from column c on; zeros from column D on. At once where they lie at a multiple of 16
// bytes.
__device__ inline Pack<float> four_of(const float* row, int c, int D, bool at_once) {
  if (at_once) return pack_at(row + c);
  Pack<float> four = {};
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (c + e < D) four.numbers[e] = row[c + e];
  return four;
}

// Writes the sums of a warp, times a factor: the first `columns` of them of row r of a lane's to at(r), null
// for nowhere.
template <typename Products, int M, int N, typename At, typename Factor>
__device__ void write_rows(const Sums<M, N>& sums, int columns, At at, Factor factor) {
#pragma unroll
  for (int r = 0; r < 2 * M; ++r) {
    float* to = at(r);
    if (!to) continue;
    const float by = factor(r);
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int place = 0; place < 2; ++place)
        if (const int column = Products::output_column(n, place); column < columns)
          to[column] = sums.at[r / 2][n][r % 2 * 2 + place] * by;
  }
}

// Calls f.template operator()<Products, kWidth>() for the products of the backend's precision and the first
// of the widths that has room for a head of D numbers.
template <typename F>
void for_width(int64_t D, F f) {
  const auto with = [&]<typename Products>() {
    if (D <= 16) return f.template operator()<Products, 16>();
    if (D <= 32) return f.template operator()<Products, 32>();
    if (D <= 64) return f.template operator()<Products, 64>();
    if (D <= 128) return f.template operator()<Products, 128>();
    return f.template operator()<Products, 256>();
  };
  precision() == Precision::bf16 ? with.template operator()<Bf16Products>()
                                 : with.template operator()<F32Products>();
}

// y and lse of the segments of at most kFewQueries queries, without tiles: a query's keys are divided among
// the threads of blocks.
void attend_few(Context& context, const Attention& op);

}  // namespace harmonic::cuda
