// How tiles of attention are laid out on a card. What an op reads lies in the caller's rows and, for keys, in
// caches that go round by position. It is first packed: of each head, and of each segment that takes part,
// its queries one after the other and the keys that they read one after the other, cache or not, wide as the
// tiles are and with rows of zeros up to the next multiple of kPadding. So tiles are copied as they are,
// without a look at segments, positions or ends.
#pragma once

#include "harmonic/ops/attention_tiles.h"

namespace harmonic::cuda {

// The plan's segments where kernels can read them.
struct PackedSegments {
  const AttentionSegment* segments = nullptr;
  int count = 0;

  explicit PackedSegments(const AttentionPlan& plan)
      : segments(staged(plan.segments.data(), static_cast<int64_t>(plan.segments.size()))),
        count(static_cast<int>(plan.segments.size())) {}
  // That a packed row belongs to; `at` is the member that says where its rows begin.
  __device__ const AttentionSegment& of(int64_t row, int64_t AttentionSegment::*at) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (segments[middle].*at <= row ? low : high) = middle;
    }
    return segments[low];
  }
  // The caller's row of a packed query, -1 for one of the padding.
  __device__ int64_t query_row(int64_t packed) const {
    const AttentionSegment& s = of(packed, &AttentionSegment::queries_at);
    const int64_t i = packed - s.queries_at;
    return i < s.queries ? s.row + i : -1;
  }
  // Where a packed key or value comes from, null for one of the padding.
  __device__ const float* key(const KeyRows& rows, int64_t packed) const {
    const AttentionSegment& s = of(packed, &AttentionSegment::keys_at);
    const int64_t j = packed - s.keys_at;
    return j < s.keys ? rows.at(s, j) : nullptr;
  }
};

// Numbers of heads, [heads][rows][kWidth].
template <typename Number, int kWidth>
struct PackedRows {
  const Number* data = nullptr;
  int64_t rows = 0;
  __device__ const Number* of(int64_t head, int64_t row) const { return data + (head * rows + row) * kWidth; }
};

// Rows that are packed, and where.
template <typename Products, int kWidth>
struct PackingSource {
  KeyRows from = {};
  bool of_keys = false, at_once = false;
  int heads = 0, D = 0;
  int64_t rows = 0;
  float factor = 1;
  typename Products::Number* to = nullptr;

  __device__ const float* row_of(const PackedSegments& segments, int64_t row) const {
    if (of_keys) return segments.key(from, row);
    const int64_t r = segments.query_row(row);
    return r < 0 ? nullptr : from.own[r];
  }
  __device__ void pack(const PackedSegments& segments, int64_t row, int lane) const {
    constexpr int kFours = kWidth / 4;
    const float* begin = row_of(segments, row);
    for (int i = lane; i < heads * kFours; i += kWarpSize) {
      const int h = i / kFours, c = i % kFours * 4;
      Pack<float> four = {};
      if (begin && c < D) four = four_of(begin + h * D, c, D, at_once);
#pragma unroll
      for (int e = 0; e < 4; ++e) four.numbers[e] *= factor;
      *reinterpret_cast<typename Products::Four*>(to + (h * rows + row) * kWidth + c) =
          Products::four(four.numbers);
    }
  }
};
template <typename Products, int kWidth>
struct PackingSources {
  static constexpr int kMost = 4;
  PackingSource<Products, kWidth> at[kMost];
};

// Packs what is asked for, in one launch by finish().
template <typename Products, int kWidth>
class Packing {
 public:
  using Number = typename Products::Number;
  using Packed = PackedRows<Number, kWidth>;
  using Source = PackingSource<Products, kWidth>;
  using Sources = PackingSources<Products, kWidth>;

  Packing(Context& context, const AttentionPlan& plan, const PackedSegments& segments)
      : context_(context), plan_(plan), segments_(segments) {}

  // Rows of queries, or of what there is of each query, times a factor.
  Packed queries(const Tensor& tensor, int64_t heads, float factor) {
    const int64_t D = tensor.cols / heads;
    return add({.from = {rows_of(tensor), {}, 0, 1, 0},
                .of_keys = false,
                .at_once = by_fours(tensor, D),
                .heads = static_cast<int>(heads),
                .D = static_cast<int>(D),
                .rows = plan_.query_rows,
                .factor = factor});
  }
  template <typename Op>
  Packed keys(const Op& op, bool values) {
    const int64_t heads = op.shape.kv_heads, D = op.k.cols / heads;
    return add({.from = key_rows(op, values),
                .of_keys = true,
                .at_once = by_fours(values ? op.v : op.k, D) && (!op.past || by_fours(op.past, D)),
                .heads = static_cast<int>(heads),
                .D = static_cast<int>(D),
                .rows = plan_.key_rows});
  }

  void finish() const {
    const Sources sources = sources_;
    const PackedSegments segments = segments_;
    int64_t rows = 0;
    for (const Source& source : sources.at) rows += source.rows;
    for_each_row(rows, [=] __device__(int64_t row, int lane) {
      Source source = sources.at[0];
#pragma unroll
      for (int n = 1; n < Sources::kMost; ++n)
        if (row >= source.rows) {
          row -= source.rows;
          source = sources.at[n];
        }
      source.pack(segments, row, lane);
    });
  }

 private:
  Packed add(Source source) {
    HARMONIC_ASSERT(count_ < Sources::kMost);
    constexpr DType kType = sizeof(Number) == sizeof(float) ? DType::f32 : DType::bf16;
    source.to = static_cast<Number*>(context_.scratch.tensor(source.heads * source.rows, kWidth, kType).data);
    sources_.at[count_++] = source;
    return {source.to, source.rows};
  }

  Context& context_;
  const AttentionPlan& plan_;
  const PackedSegments& segments_;
  Sources sources_;
  int count_ = 0;
};

}  // namespace harmonic::cuda
