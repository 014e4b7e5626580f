// Attention of one query a segment, as when texts are generated. The work is to read keys and values, once
// for all heads that share them and where they lie: packing them, as the matrix product does, costs more than
// a query computes with them. Threads share the keys of a text, for the scores, and then the columns of its
// values. The bits are those of blocks: each number is one chain of fused multiply-adds in the order of
// matmul.
#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/attention_one_query_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/attention_softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Tag>;
constexpr int64_t kLanes = hn::MaxLanes(Tag());
constexpr int64_t kQueriesAtOnce = 4;  // queries

// Four numbers of each of a vector's keys; block b has those of key 4 b.
template <class D>
HWY_INLINE hn::Vec<D> LoadFours(D d, const float* const* rows, int64_t at) {
  if constexpr (hn::MaxLanes(d) == 4) {
    return hn::LoadU(d, rows[0] + at);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, LoadFours(half, rows + hn::MaxLanes(half), at), LoadFours(half, rows, at));
  }
}

// scores[m * ldc + j] = q_m . key j, for kQueries queries and kGroups vectors of keys; rows[j] is key j. The
// keys `ahead` numbers further, which come next, are asked for: the steps of rows are too long for the
// processor to foresee.
template <int64_t kQueries, int64_t kGroups>
HWY_INLINE void ScoresAtOnce(int64_t D, const float* q, int64_t q_stride, const float* const* rows,
                             float* scores, int64_t ldc, int64_t ahead) {
  const Tag d;
  constexpr int64_t kRows = kGroups * kLanes;
  Vector sums[kQueries][kGroups];
#pragma GCC unroll 16
  for (auto& of_query : sums)
#pragma GCC unroll 16
    for (Vector& sum : of_query) sum = hn::Zero(d);
  for (int64_t k = 0; k < D; k += 4) {
    // A line has 16 numbers, which four steps take: each asks for the lines of a quarter of the keys.
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows / 4; ++i)
      __builtin_prefetch(rows[k / 4 % 4 * (kRows / 4) + i] + ahead + k / 16 * 16);
    Vector columns[kGroups][4];
#pragma GCC unroll 16
    for (int64_t g = 0; g < kGroups; ++g) {
      const float* const* of_group = rows + g * kLanes;
      const auto a = LoadFours(d, of_group, k), b = LoadFours(d, of_group + 1, k);
      const auto c = LoadFours(d, of_group + 2, k), e = LoadFours(d, of_group + 3, k);
      const auto ac0 = hn::InterleaveLower(d, a, c), ac1 = hn::InterleaveUpper(d, a, c);
      const auto be0 = hn::InterleaveLower(d, b, e), be1 = hn::InterleaveUpper(d, b, e);
      columns[g][0] = hn::InterleaveLower(d, ac0, be0);
      columns[g][1] = hn::InterleaveUpper(d, ac0, be0);
      columns[g][2] = hn::InterleaveLower(d, ac1, be1);
      columns[g][3] = hn::InterleaveUpper(d, ac1, be1);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < 4; ++i)
#pragma GCC unroll 16
      for (int64_t m = 0; m < kQueries; ++m) {
        const auto x = hn::Set(d, q[m * q_stride + k + i]);
#pragma GCC unroll 16
        for (int64_t g = 0; g < kGroups; ++g) sums[m][g] = hn::MulAdd(x, columns[g][i], sums[m][g]);
      }
  }
#pragma GCC unroll 16
  for (int64_t m = 0; m < kQueries; ++m)
#pragma GCC unroll 16
    for (int64_t g = 0; g < kGroups; ++g) hn::StoreU(sums[m][g], d, scores + m * ldc + g * kLanes);
}

// y_m += sum_j weights[m * ldw + j] value_j, kVectors vectors of numbers from `values` on.
template <int64_t kQueries, int64_t kVectors, class D>
HWY_INLINE void AddValuesAtOnce(D d, int64_t keys, const float* weights, int64_t ldw, const float* values,
                                int64_t stride, float* y, int64_t ldy) {
  constexpr int64_t kWidth = hn::MaxLanes(d);
  hn::Vec<D> sums[kQueries][kVectors];
#pragma GCC unroll 16
  for (int64_t m = 0; m < kQueries; ++m)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) sums[m][v] = hn::LoadU(d, y + m * ldy + v * kWidth);
  for (int64_t j = 0; j < keys; ++j, values += stride) {
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors * kWidth; v += 16) __builtin_prefetch(values + 16 * stride + v);
    hn::Vec<D> value[kVectors];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) value[v] = hn::LoadU(d, values + v * kWidth);
#pragma GCC unroll 16
    for (int64_t m = 0; m < kQueries; ++m) {
      const auto w = hn::Set(d, weights[m * ldw + j]);
#pragma GCC unroll 16
      for (int64_t v = 0; v < kVectors; ++v) sums[m][v] = hn::MulAdd(w, value[v], sums[m][v]);
    }
  }
#pragma GCC unroll 16
  for (int64_t m = 0; m < kQueries; ++m)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(sums[m][v], d, y + m * ldy + v * kWidth);
}

// Calls f.operator()<n>(first) for queries [first, first + n) at once until all `count` are done.
template <typename F>
HWY_INLINE void ForQueriesAtOnce(int64_t count, const F& f) {
  int64_t m = 0;
  for (; m + kQueriesAtOnce <= count; m += kQueriesAtOnce) f.template operator()<kQueriesAtOnce>(m);
  if (count - m == 3) f.template operator()<3>(m);
  if (count - m == 2) f.template operator()<2>(m);
  if (count - m == 1) f.template operator()<1>(m);
}

// scores [count, ldc] of `keys` keys, `k_stride` apart. D is a multiple of 4. Up to the next multiple of
// 2 kLanes numbers of a row are written.
void Scores(int64_t count, int64_t keys, int64_t D, const float* q, int64_t q_stride, const float* k,
            int64_t k_stride, float* scores, int64_t ldc) {
  constexpr int64_t kAtOnce = 2 * kLanes;
  for (int64_t j = 0; j < keys; j += kAtOnce) {
    const float* rows[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) rows[i] = k + std::min(j + i, keys - 1) * k_stride;
    ForQueriesAtOnce(count, [&]<int64_t kQueries>(int64_t m) {
      ScoresAtOnce<kQueries, 2>(D, q + m * q_stride, q_stride, rows, scores + m * ldc + j, ldc,
                                kAtOnce * k_stride);
    });
  }
}

// y [count, D] += weights [count, keys] values [keys, D]. D is a multiple of 4.
void AddValues(int64_t count, int64_t keys, int64_t D, const float* weights, int64_t ldw, const float* v,
               int64_t v_stride, float* y) {
  ForQueriesAtOnce(count, [&]<int64_t kQueries>(int64_t m) {
    int64_t at = 0;
    // As many columns as there are for so many vectors.
    const auto add = [&]<int64_t kVectors>(auto d) HWY_ATTR {
      constexpr int64_t kColumns = kVectors * hn::MaxLanes(d);
      for (; at + kColumns <= D; at += kColumns)
        AddValuesAtOnce<kQueries, kVectors>(d, keys, weights + m * ldw, ldw, v + at, v_stride, y + m * D + at,
                                            D);
    };
    add.template operator()<2>(Tag());
    add.template operator()<1>(Tag());
    add.template operator()<1>(hn::CappedTag<float, 8>());
    add.template operator()<1>(hn::CappedTag<float, 4>());
  });
}

// Adds a tile's values to the outputs [count, D] of some heads, after their factors (ScaleRow).
void AddTile(int64_t count, int64_t keys, int64_t D, const float* factors, const float* weights,
             const float* v, int64_t v_stride, float* output) {
  for (int64_t m = 0; m < count; ++m) ScaleRow(factors[m], D, output + m * D);
  AddValues(count, keys, D, weights, kKeys, v, v_stride, output);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic::cpu {
namespace {

HWY_EXPORT(Scores);
HWY_EXPORT(SoftmaxTile);
HWY_EXPORT(AddTile);
HWY_EXPORT(FinishRow);

constexpr int64_t kTilesAtOnce = 4;     // whose scores are one piece of work
constexpr int64_t kColumnsAtOnce = 32;  // of values

// The queries, and what is kept between the parts of the work. Tiles are those that queries read, of one
// segment after the other.
class OneQueryEach {
 public:
  OneQueryEach(Context& context, const Attention& op)
      : context_(context), op_(op), rows_{op}, D_(rows_.D()), group_(rows_.group()) {
    Arena& scratch = context.scratch;
    const int64_t B = op.segments.count, H = op.shape.heads;
    before_ = scratch.allocate_array<int64_t>(B + 1);
    before_[0] = 0;
    for (int64_t b = 0; b < B; ++b)
      before_[b + 1] =
          before_[b] + (op.segments.length(b) > 0 ? ceil_div(rows_.end(b) - first_tile(b), kKeys) : 0);
    tiles_ = before_[B];
    scores_ = scratch.allocate_array<float>(tiles_ * H * kKeys);
    factors_ = scratch.allocate_array<float>(tiles_ * H);
    largest_ = scratch.allocate_array<float>(B * H);
    sums_ = scratch.allocate_array<float>(B * H);
  }

  void run() {
    const int64_t B = op_.segments.count, H = op_.shape.heads, G = op_.shape.kv_heads;
    const int64_t elements = tiles_ * kKeys * G * D_;
    for_each_with_worker(context_, ceil_div(tiles_, kTilesAtOnce) * G, elements,
                         [&](int64_t i, MatmulWorker& worker) { compute_scores(i / G, i % G, worker); });
    for_each_with_worker(context_, B * H, tiles_ * kKeys * H,
                         [&](int64_t i, MatmulWorker&) { weigh(i / H, i % H); });
    const int64_t parts = ceil_div(D_, kColumnsAtOnce);
    for_each_with_worker(context_, B * G * parts, elements, [&](int64_t i, MatmulWorker& worker) {
      add_values(i / parts / G, i / parts % G, i % parts * kColumnsAtOnce, worker);
    });
  }

 private:
  int64_t first_tile(int64_t b) const { return rows_.first_tile(rows_.first(b)); }
  float* scores(int64_t t, int64_t h) const { return scores_ + (t * op_.shape.heads + h) * kKeys; }
  float* factors(int64_t t, int64_t h) const { return factors_ + t * op_.shape.heads + h; }

  // Of all heads of a group, of some tiles.
  void compute_scores(int64_t piece, int64_t g, MatmulWorker& worker) {
    float* copy = worker.memory.allocate_array<float>(kKeys * D_);
    const int64_t begin = piece * kTilesAtOnce, end = std::min(tiles_, begin + kTilesAtOnce);
    int64_t b = std::upper_bound(before_, before_ + op_.segments.count + 1, begin) - before_ - 1;
    for (int64_t t = begin; t < end; ++t) {
      while (t >= before_[b + 1]) ++b;
      const int64_t tile = first_tile(b) + (t - before_[b]) * kKeys,
                    keys = std::min(kKeys, rows_.end(b) - tile);
      const MatrixView k = rows_.tile_of(false, b, g, tile, keys, copy);
      const float* q = op_.q.row<float>(rows_.own_row(b, rows_.first(b))) + g * group_ * D_;
      HWY_DYNAMIC_DISPATCH(Scores)
      (group_, keys, D_, q, D_, k.data, k.row_stride, scores(t, g * group_), kKeys);
    }
  }

  // The scores of a head become weights.
  void weigh(int64_t b, int64_t h) {
    float largest = -INFINITY, sum = 0;
    for (int64_t t = before_[b]; t < before_[b + 1]; ++t) {
      const int64_t tile = first_tile(b) + (t - before_[b]) * kKeys;
      const Readable readable = rows_.readable(rows_.first(b), tile, std::min(kKeys, rows_.end(b) - tile));
      *factors(t, h) = HWY_DYNAMIC_DISPATCH(SoftmaxTile)(readable, rows_.scale(), scores(t, h), largest, sum);
    }
    largest_[b * op_.shape.heads + h] = largest;
    sums_[b * op_.shape.heads + h] = sum;
  }

  // Some columns of the outputs of a group.
  void add_values(int64_t b, int64_t g, int64_t column, MatmulWorker& worker) {
    if (before_[b] == before_[b + 1]) return;
    const int64_t columns = std::min(kColumnsAtOnce, D_ - column);
    float* output = worker.memory.zeros(group_, columns, DType::f32).as<float>();
    float* copy = worker.memory.allocate_array<float>(kKeys * D_);
    for (int64_t t = before_[b]; t < before_[b + 1]; ++t) {
      const int64_t tile = first_tile(b) + (t - before_[b]) * kKeys,
                    keys = std::min(kKeys, rows_.end(b) - tile);
      const MatrixView v = rows_.tile_of(true, b, g, tile, keys, copy);
      HWY_DYNAMIC_DISPATCH(AddTile)
      (group_, keys, columns, factors(t, g * group_), scores(t, g * group_), v.data + column, v.row_stride,
       output);
    }
    const int64_t row = rows_.own_row(b, rows_.first(b));
    for (int64_t m = 0; m < group_; ++m) {
      const int64_t h = g * group_ + m, of_head = b * op_.shape.heads + h;
      const float lse =
          HWY_DYNAMIC_DISPATCH(FinishRow)(largest_[of_head], sums_[of_head], columns, output + m * columns,
                                          op_.y.row<float>(row) + h * D_ + column);
      if (op_.lse && column == 0) op_.lse.row<float>(row)[h] = lse;
    }
  }

  Context& context_;
  const Attention& op_;
  const Rows<Attention> rows_;
  const int64_t D_, group_;
  int64_t tiles_ = 0;
  int64_t* before_;         // tiles before each segment
  float* scores_;           // [tiles][heads][kKeys], then weights
  float* factors_;          // [tiles][heads]
  float *largest_, *sums_;  // [segments][heads]
};

}  // namespace

void attend_one_query_each(Context& context, const Attention& op) {
  const ArenaScope scope(context.scratch);
  OneQueryEach(context, op).run();
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
