// The per-target part of products in bf16: operands are rounded while they are packed, two k in 32 bits, and
// AVX-512 BF16, or AMX (matmul_amx-inl.h), multiplies and adds such pairs. They lie where f32 numbers would,
// a pair for each two k (a step): panels of B [panel][step][16], A by rows or by columns (matmul_pack-inl.h).
//
// Of a pair k is the upper half and k + 1 the lower, as AVX-512's instruction adds them (bf16_pairs-inl.h):
// the chain of matmul.h. A K that is odd ends with -0 * 0, which changes no sum.

#if defined(HARMONIC_OPS_MATMUL_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_PAIRS_INL_H_
#undef HARMONIC_OPS_MATMUL_PAIRS_INL_H_
#else
#define HARMONIC_OPS_MATMUL_PAIRS_INL_H_
#endif

#include <hwy/highway.h>

#include "harmonic/ops/bf16_pairs-inl.h"
#include "harmonic/ops/matmul_pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

enum class Pair : uint32_t {};

HWY_INLINE Vector LoadWeights(const Pair* b, Vector) {
  return hn::LoadU(Tag(), reinterpret_cast<const float*>(b));
}

#if HWY_TARGET == HWY_AVX3
// What fills the last pair when K is odd.
constexpr float kPadOfA = -0.0f, kPadOfB = 0.0f;

// `count` numbers from `from` on, at most 16 of them, others and none as `pad`.
template <bool kNegate>
HWY_INLINE Vector LoadSome(const float* from, int64_t count, float pad) {
  const Tag d;
  const auto inside = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(count, 0, kLanes)));
  const Vector v = hn::MaskedLoad(inside, d, from);
  return hn::IfThenElse(inside, kNegate ? hn::Neg(v) : v, hn::Set(d, pad));
}

// K numbers `step` apart become pairs at out[0], out[1] and on, up to a whole vector; the first of a vector
// are `vector_step` apart.
template <bool kNegate>
void PackPairRow(const float* from, int64_t step, int64_t K, float pad, float* out,
                 int64_t vector_step = kLanes) {
  const Tag d;
  HWY_ALIGN float run[2 * kLanes];
  for (int64_t k = 0; k < K; k += 2 * kLanes, out += vector_step) {
    const int64_t count = std::min(K - k, 2 * kLanes);
    const float* numbers = from + k * step;
    if (step != 1) {
      for (int64_t i = 0; i < count; ++i) run[i] = numbers[i * step];
      numbers = run;
    }
    if (count == 2 * kLanes && !kNegate) {
      hn::StoreU(PairsOfARow(hn::LoadU(d, numbers), hn::LoadU(d, numbers + kLanes)), d, out);
    } else {
      hn::StoreU(PairsOfARow(LoadSome<kNegate>(numbers, count, pad),
                             LoadSome<kNegate>(numbers + kLanes, count - kLanes, pad)),
                 d, out);
    }
  }
}

// Of K rows, `step` apart, `count` numbers each, at most 16: pairs at out[s * 16 + i].
template <bool kNegate>
void PackPairsOfRows(const float* from, int64_t step, int64_t count, int64_t K, float pad, float* out) {
  const Tag d;
  int64_t k = 0;
  for (; k + 2 <= K; k += 2, from += 2 * step, out += kLanes)
    hn::StoreU(PairsOfTwoRows(LoadSome<kNegate>(from, count, 0), LoadSome<kNegate>(from + step, count, 0)), d,
               out);
  if (k < K) hn::StoreU(PairsOfTwoRows(LoadSome<kNegate>(from, count, 0), hn::Set(d, pad)), d, out);
}

// As PackPanel.
void PackPairPanel(MatrixView B, int64_t K, int64_t columns, float* out) {
  static_assert(kPanel == kLanes && kSlot == kLanes);
  if (B.col_stride == 1) return PackPairsOfRows<false>(B.data, B.row_stride, columns, K, kPadOfB, out);
  HWY_ALIGN float rows[kPanel * kRowStride];
  for (int64_t k = 0; k < K; k += 2 * kBlockK, out += kBlockK * kPanel) {
    const int64_t count = std::min(K - k, 2 * kBlockK);
    for (int64_t n = 0; n < columns; ++n)
      PackPairRow<false>(B.data + k * B.row_stride + n * B.col_stride, B.row_stride, count, kPadOfB,
                         rows + n * kRowStride);
    PackPanel({rows, 1, kRowStride}, ceil_div(count, 2), columns, out);
  }
}

// As PackRows.
template <bool kNegate>
void PackPairRows(MatrixView A, int64_t rows, int64_t K, bool by_rows, float* out) {
  if (by_rows) {
    for (int64_t r = 0; r < rows; ++r)
      PackPairRow<kNegate>(A.data + r * A.row_stride, A.col_stride, K, kPadOfA, out + r * kRowStride);
    return;
  }
  // A few k at a time, so that the lines of A that several panels share are still in the cache.
  constexpr int64_t kStep = 16;
  const int64_t panels = row_panels(rows), steps = ceil_div(K, 2);
  for (int64_t k = 0; k < K; k += kStep) {
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t begin = rows * i / panels, height = rows * (i + 1) / panels - begin;
      PackPairsOfRows<kNegate>(A.data + begin + k * A.col_stride, A.col_stride, height,
                               std::min(kStep, K - k), kPadOfA, out + (i * steps + k / 2) * kSlot);
    }
  }
}
#else
// Nothing of this is there, nor called.
void PackPairPanel(MatrixView, int64_t, int64_t, float*);
template <bool kNegate>
void PackPairRows(MatrixView, int64_t, int64_t, bool, float*);
#endif

bool MultipliesPairs() { return kMultipliesPairs; }

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
