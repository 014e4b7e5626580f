// The per-target part of arithmetic on pairs of bf16 numbers in 32 bits: AVX-512 BF16's two instructions.
// Highway has no target with them, so they stand here by name and compile with AVX-512's; whether the
// processor at hand has them is for bf16_instructions.h to say.
//
// vdpbf16ps adds the product of the upper halves first and that of the lower ones then. Both additions are
// fused and rounded to nearest, whatever the thread's mode, and subnormals, of operands and of sums, count as
// zero. So it is documented, and so the tests of products find it, to the bit, on the processor that they run
// on. vcvtne2ps2bf16 rounds to the nearest, ties to even; subnormals become zero.

#if defined(HARMONIC_OPS_BF16_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_BF16_PAIRS_INL_H_
#undef HARMONIC_OPS_BF16_PAIRS_INL_H_
#else
#define HARMONIC_OPS_BF16_PAIRS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 16 pairs, as the f32 numbers of the same bits.
using PairVector = hn::Vec<hn::CappedTag<float, 16>>;

#if HWY_TARGET == HWY_AVX3
constexpr bool kMultipliesPairs = true;

// sum + upper halves' product + lower halves' product, in this order.
HWY_INLINE PairVector MultiplyAddPairs(PairVector a, PairVector b, PairVector sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
  return sum;
}

// 32 numbers of bf16: those of `low`, then those of `high`. To the nearest, ties to even.
HWY_INLINE __m512i RoundBoth(PairVector low, PairVector high) {
  __m512i both;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(high.raw), "v"(low.raw));
  return both;
}

// 16 pairs of first[i] and second[i].
HWY_INLINE PairVector PairsOfTwoRows(PairVector first, PairVector second) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  return PairVector{_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, RoundBoth(second, first)))};
}

// 16 pairs of 32 numbers that follow each other.
HWY_INLINE PairVector PairsOfARow(PairVector low, PairVector high) {
  return PairVector{_mm512_castsi512_ps(_mm512_rol_epi32(RoundBoth(low, high), 16))};
}
#else
constexpr bool kMultipliesPairs = false;
PairVector MultiplyAddPairs(PairVector, PairVector, PairVector);  // not there, nor called
#endif

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
