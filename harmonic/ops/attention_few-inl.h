// A few queries against a tile of keys and its values, which are read where they lie: packing them, as the
// matrix product does, costs more than so few queries compute with them. The bits are those of matmul: each
// number is one chain of fused multiply-adds over k in order.
#include <algorithm>
#include <cstdint>

// clang-format off
#if defined(HARMONIC_OPS_ATTENTION_FEW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_ATTENTION_FEW_INL_H_
#undef HARMONIC_OPS_ATTENTION_FEW_INL_H_
#else
#define HARMONIC_OPS_ATTENTION_FEW_INL_H_
#endif
// clang-format on

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FewTag = hn::CappedTag<float, 16>;
using FewVector = hn::Vec<FewTag>;
constexpr int64_t kFewLanes = hn::MaxLanes(FewTag());
constexpr int64_t kFewAtOnce = 4;  // queries

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
  const FewTag d;
  constexpr int64_t kRows = kGroups * kFewLanes;
  FewVector sums[kQueries][kGroups];
#pragma GCC unroll 16
  for (auto& of_query : sums)
#pragma GCC unroll 16
    for (FewVector& sum : of_query) sum = hn::Zero(d);
  for (int64_t k = 0; k < D; k += 4) {
    // A line has 16 numbers, which four steps take: each asks for the lines of a quarter of the keys.
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows / 4; ++i)
      __builtin_prefetch(rows[k / 4 % 4 * (kRows / 4) + i] + ahead + k / 16 * 16);
    FewVector columns[kGroups][4];
#pragma GCC unroll 16
    for (int64_t g = 0; g < kGroups; ++g) {
      const float* const* of_group = rows + g * kFewLanes;
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
    for (int64_t g = 0; g < kGroups; ++g) hn::StoreU(sums[m][g], d, scores + m * ldc + g * kFewLanes);
}

// y_m += sum_j weights[m * ldw + j] value_j, kVectors vectors of numbers from `values` on.
template <int64_t kQueries, int64_t kVectors>
HWY_INLINE void AddValuesAtOnce(int64_t keys, const float* weights, int64_t ldw, const float* values,
                                int64_t stride, float* y, int64_t ldy) {
  const FewTag d;
  FewVector sums[kQueries][kVectors];
#pragma GCC unroll 16
  for (int64_t m = 0; m < kQueries; ++m)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) sums[m][v] = hn::LoadU(d, y + m * ldy + v * kFewLanes);
  for (int64_t j = 0; j < keys; ++j, values += stride) {
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors * kFewLanes; v += 16) __builtin_prefetch(values + 16 * stride + v);
    FewVector value[kVectors];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) value[v] = hn::LoadU(d, values + v * kFewLanes);
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
    for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(sums[m][v], d, y + m * ldy + v * kFewLanes);
}

// Calls f.operator()<n>(first) for queries [first, first + n) at once until all `count` are done.
template <typename F>
HWY_INLINE void ForQueriesAtOnce(int64_t count, const F& f) {
  int64_t m = 0;
  for (; m + kFewAtOnce <= count; m += kFewAtOnce) f.template operator()<kFewAtOnce>(m);
  if (count - m == 3) f.template operator()<3>(m);
  if (count - m == 2) f.template operator()<2>(m);
  if (count - m == 1) f.template operator()<1>(m);
}

// scores [count, ldc] of `keys` keys, `k_stride` apart. D is a multiple of kFewLanes. Up to the next multiple
// of 2 kFewLanes numbers of a row are written.
void FewScores(int64_t count, int64_t keys, int64_t D, const float* q, int64_t q_stride, const float* k,
               int64_t k_stride, float* scores, int64_t ldc) {
  constexpr int64_t kAtOnce = 2 * kFewLanes;
  for (int64_t j = 0; j < keys; j += kAtOnce) {
    const float* rows[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) rows[i] = k + std::min(j + i, keys - 1) * k_stride;
    ForQueriesAtOnce(count, [&]<int64_t kQueries>(int64_t m) {
      ScoresAtOnce<kQueries, 2>(D, q + m * q_stride, q_stride, rows, scores + m * ldc + j, ldc,
                                kAtOnce * k_stride);
    });
  }
}

// y [count, D] += weights [count, keys] values [keys, D].
void FewValues(int64_t count, int64_t keys, int64_t D, const float* weights, int64_t ldw, const float* v,
               int64_t v_stride, float* y) {
  constexpr int64_t kVectors = kFewLanes == 16 ? 4 : 2;  // as many as the registers hold
  ForQueriesAtOnce(count, [&]<int64_t kQueries>(int64_t m) {
    int64_t at = 0;
    for (; at + kVectors * kFewLanes <= D; at += kVectors * kFewLanes)
      AddValuesAtOnce<kQueries, kVectors>(keys, weights + m * ldw, ldw, v + at, v_stride, y + m * D + at, D);
    for (; at < D; at += kFewLanes)
      AddValuesAtOnce<kQueries, 1>(keys, weights + m * ldw, ldw, v + at, v_stride, y + m * D + at, D);
  });
}

// Whether heads of D numbers can be read so.
bool FewTakes(int64_t D) { return D % kFewLanes == 0; }

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
