// The softmax of attention, tile by tile of keys (Milakov and Gimelshein, arXiv 1805.02867).
#include <algorithm>

#include "harmonic/ops/attention_rows.h"
#include "harmonic/ops/simd_math-inl.h"

// clang-format off
#if defined(HARMONIC_OPS_ATTENTION_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_ATTENTION_SOFTMAX_INL_H_
#undef HARMONIC_OPS_ATTENTION_SOFTMAX_INL_H_
#else
#define HARMONIC_OPS_ATTENTION_SOFTMAX_INL_H_
#endif
// clang-format on

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Takes a tile's scores into a query's softmax: they become weights relative to the largest score so far, and
// `sum` is brought to the same scale. scores has kKeys numbers. Returns the factor by which what was summed
// with earlier weights comes to that scale (ScaleRow).
inline float SoftmaxTile(Readable readable, float scale, float* scores, float& largest, float& sum) {
  const hn::CappedTag<float, 16> d;
  std::fill(scores, scores + readable.begin, 0.0f);
  std::fill(scores + std::max(readable.begin, readable.end), scores + kKeys, 0.0f);
  if (readable.begin >= readable.end) {
    std::fill_n(scores, kKeys, 0.0f);
    return 1;
  }
  float* first = scores + readable.begin;
  const int64_t count = readable.end - readable.begin;
  const float now = std::max(largest, MaxOf(d, count, first) * scale);  // scale > 0
  float rescale = 0;
  const float change = largest - now;  // -infinity at the first tile
  ForEach(d, 1, Out(&rescale), In(&change), [d](auto v, auto& r) HWY_ATTR { r = ExpOfNegative(d, v); });
  const auto s = hn::Set(d, scale), m = hn::Set(d, now);
  const auto weight_of = [d, s, m](auto v) HWY_ATTR { return ExpOfNegative(d, hn::Sub(hn::Mul(v, s), m)); };
  // Summed over the whole tile, so that a term's place among the partial sums does not depend on the window.
  float added;
  if (count == kKeys) {
    added = ForEachWithSums<1>(d, kKeys, Out(scores), In(scores),
                               [weight_of](auto v, auto& weight, auto& term)
                                   HWY_ATTR { term = weight = weight_of(v); })[0];
  } else {
    ForEach(d, count, Out(first), In(first),
            [weight_of](auto v, auto& weight) HWY_ATTR { weight = weight_of(v); });
    added = SumOf(d, kKeys, In(scores), [](auto v, auto& term) HWY_ATTR { term = v; });
  }
  sum = sum * rescale + added;
  largest = now;
  return rescale;
}

inline void ScaleRow(float factor, int64_t count, float* row) {
  if (factor == 1.0f) return;
  const hn::CappedTag<float, 16> d;
  const auto f = hn::Set(d, factor);
  ForEach(d, count, Out(row), In(row), [f](auto v, auto& out) HWY_ATTR { out = hn::Mul(v, f); });
}

// y = output / sum; gives the log of the sum of exponentials. Zeros come out as +0 whatever their sign was.
inline float FinishRow(float largest, float sum, int64_t count, const float* output, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto divisor = hn::Set(d, sum);
  ForEach(d, count, Out(y), In(output),
          [d, divisor](auto v, auto& out) HWY_ATTR { out = hn::Add(hn::Div(v, divisor), hn::Zero(d)); });
  float log = 0;
  ForEach(d, 1, Out(&log), In(&sum), [d](auto v, auto& out) HWY_ATTR { out = Log(d, v); });
  return largest + log;
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
