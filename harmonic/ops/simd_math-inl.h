// Vector mathematics of the CPU kernels: exp, log, sigmoid, silu, softplus, and the loops around them.
//
// Include inside the per-target part of a unit (after hwy/foreach_target.h). Each function is one sequence of
// IEEE operations whatever the vector width, ends of arrays included, so that a result has the same bits on
// every target: no call of libm, no approximate reciprocals. Functions never give a subnormal: below FLT_MIN
// the result is zero, whether flush-to-zero is set or not. NaN stays NaN.
//
// A typical kernel:
//   const hn::CappedTag<float, 16> d;
//   ForEach(d, count, Out(y), In(x, z), [d](auto xv, auto zv, auto& yv) HWY_ATTR { yv = hn::Mul(xv, Silu(d,
//   zv)); }); float sum = SumOf(d, count, In(x), [](auto xv, auto& term) HWY_ATTR { term = hn::Mul(xv, xv);
//   });

#if defined(HARMONIC_OPS_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_SIMD_MATH_INL_H_
#undef HARMONIC_OPS_SIMD_MATH_INL_H_
#else
#define HARMONIC_OPS_SIMD_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// ---- Functions of one vector ----

// e^x = 2^n p, with p in about [0.7, 1.42] returned and n in the low bits of `shifted`, a sum with 1.5 *
// 2^23.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpParts(D d, V x, V& shifted) {
  const V magic = hn::Set(d, 12582912.0f);
  shifted = hn::MulAdd(x, hn::Set(d, 0x1.715476p+0f), magic);
  const V n = hn::Sub(shifted, magic);                  // round(x / ln 2)
  V r = hn::NegMulAdd(n, hn::Set(d, 0x1.62e4p-1f), x);  // exact: ln 2 in two parts
  r = hn::NegMulAdd(n, hn::Set(d, 0x1.7f7d1cp-20f), r);
  // e^r = 1 + r + r^2 q(r), minimax on |r| <= ln(2)/2.
  V q = hn::MulAdd(hn::Set(d, 0x1.6a242ep-10f), r, hn::Set(d, 0x1.1239e2p-7f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.5558f2p-5f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.555492p-3f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.fffffcp-2f));
  const V one = hn::Set(d, 1.0f);
  return hn::MulAdd(hn::MulAdd(q, r, one), r, one);
}

// p 2^n where that is a normal number: n is added to the exponent. The bits of 1.5 * 2^23 above n fall out at
// the left.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ScaleByParts(D d, V p, V shifted) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

constexpr float kExpUnderflow = -87.33654f;  // just above ln(FLT_MIN); below it e^x is taken as 0

// e^x: relative error at most 2e-7; 0 below ln(FLT_MIN) = -87.34, infinity above 88.73.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  // The bound first: Min and Max give their second argument when one is NaN.
  const V bounded = hn::Max(hn::Set(d, -104.0f), hn::Min(hn::Set(d, 89.0f), x));
  V shifted;
  const V p = ExpParts(d, bounded, shifted);
  const auto n = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, hn::Set(d, 12582912.0f)));
  // 2^n in two factors, since 2^128 alone is no float.
  const auto half = hn::ShiftRight<1>(n);
  const auto bias = hn::Set(di, 127);
  const V scale0 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(n, half), bias)));
  const V result = hn::Mul(hn::Mul(p, scale0), scale1);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kExpUnderflow)), result);
}

// The same for x <= 0, to the bit, in fewer operations: 2^n is a normal number.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfNegative(D d, V x) {
  V shifted;
  const V p = ExpParts(d, hn::Max(hn::Set(d, kExpUnderflow), x), shifted);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kExpUnderflow)), ScaleByParts(d, p, shifted));
}

// e^x of the number of [kExpUnderflow, high] that is nearest to x, high <= 88: neither 0 nor infinite, and
// the cheapest of the three.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpBounded(D d, V x, float high) {
  V shifted;
  const V p = ExpParts(d, hn::Max(hn::Set(d, kExpUnderflow), hn::Min(hn::Set(d, high), x)), shifted);
  return ScaleByParts(d, p, shifted);
}

// log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)], without its leading term f.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V LogCorrection(D d, V f) {
  V p = hn::MulAdd(hn::Set(d, -0x1.38b4e8p-4f), f, hn::Set(d, 0x1.056580p-3f));
  p = hn::MulAdd(p, f, hn::Set(d, -0x1.0d8a08p-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.22d918p-3f));
  p = hn::MulAdd(p, f, hn::Set(d, -0x1.5471b6p-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.99a00ep-3f));
  p = hn::MulAdd(p, f, hn::Set(d, -0x1.000228p-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.555554p-2f));
  return hn::Mul(hn::Mul(f, f), hn::MulAdd(p, f, hn::Set(d, -0.5f)));
}

// Natural logarithm, relative error at most 3e-7; -infinity below FLT_MIN, NaN of negative numbers.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, x);
  const auto k_int = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f3504f3)));  // the bits of sqrt(1/2)
  const V k = hn::ConvertTo(d, k_int);
  const V f = hn::Sub(hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(k_int))), hn::Set(d, 1.0f));
  const V low = hn::MulAdd(k, hn::Set(d, 0x1.7f7d1cp-20f), LogCorrection(d, f));
  V result = hn::MulAdd(k, hn::Set(d, 0x1.62e4p-1f), hn::Add(f, low));
  const V infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  result = hn::IfThenElse(hn::Lt(x, infinity), result, x);  // infinity and NaN as they are
  result =
      hn::IfThenElse(hn::Lt(x, hn::Set(d, std::numeric_limits<float>::min())), hn::Neg(infinity), result);
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Set(d, std::numeric_limits<float>::quiet_NaN()), result);
}

// log(1 + x) for x in [0, 1], relative error at most 3e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pUnit(D d, V x) {
  const auto small = hn::Lt(x, hn::Set(d, 0.41421357f));
  const V f = hn::IfThenElse(small, x, hn::Mul(hn::Sub(x, hn::Set(d, 1.0f)), hn::Set(d, 0.5f)));
  const V ln2_low = hn::IfThenZeroElse(small, hn::Set(d, 0x1.7f7d1cp-20f));
  const V ln2_high = hn::IfThenZeroElse(small, hn::Set(d, 0x1.62e4p-1f));
  return hn::Add(ln2_high, hn::Add(f, hn::Add(LogCorrection(d, f), ln2_low)));
}

// e^-|x|, which sigmoid and softplus of one x can share.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfMinusAbs(D d, V x) {
  return ExpOfNegative(d, hn::Neg(hn::Abs(x)));
}

// 1 / (1 + e^-x), relative error at most 3e-7 on both sides.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V e = ExpOfMinusAbs(d, x);
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

// sigmoid(x) and 1 - sigmoid(x), both without cancellation: relative error at most 4e-7 on both sides.
// e = ExpOfMinusAbs(x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE void Sigmoids(D d, V x, V e, V& sigmoid, V& rest) {
  const V one = hn::Set(d, 1.0f);
  const V larger = hn::Div(one, hn::Add(one, e)), smaller = hn::Mul(e, larger);
  const auto negative = hn::Lt(x, hn::Zero(d));
  sigmoid = hn::IfThenElse(negative, smaller, larger);
  rest = hn::IfThenElse(negative, larger, smaller);
}
// The same for |x| <= 87 where e^-|x| is not needed otherwise; beyond, what it is at 87 (1.6e-38 in place of
// less).
template <class D, class V = hn::Vec<D>>
HWY_INLINE void Sigmoids(D d, V x, V& sigmoid, V& rest) {
  const V one = hn::Set(d, 1.0f);
  const V e = ExpBounded(d, x, 87.0f);
  rest = hn::Div(one, hn::Add(one, e));
  sigmoid = hn::Mul(e, rest);
}

// x sigmoid(x); below -87, 1.6e-38 x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Silu(D d, V x) {
  const V e = ExpBounded(d, hn::Neg(x), 87.0f);
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), e));
}

// log(1 + e^x), relative error at most 5e-7. e = ExpOfMinusAbs(x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x, V e) {
  return hn::Add(hn::Max(hn::Zero(d), x), Log1pUnit(d, e));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  return Softplus(d, x, ExpOfMinusAbs(d, x));
}

// ---- Loops over arrays ----

template <class... Pointers>
HWY_INLINE std::array<const float*, sizeof...(Pointers)> In(Pointers... pointers) {
  return {pointers...};
}
template <class... Pointers>
HWY_INLINE std::array<float*, sizeof...(Pointers)> Out(Pointers... pointers) {
  return {pointers...};
}

// The sum over an array as 16 partial sums: element i is added to partial i % 16 in the order of i, and the
// partials are added in one fixed tree, so that the result does not depend on the vector width.
template <class D>
class PartialSums {
 public:
  static constexpr size_t kLanes = hn::MaxLanes(D());
  static constexpr size_t kVectors = 16 / kLanes;  // of one group of 16 elements
  static_assert(kLanes <= 16);

  HWY_INLINE PartialSums() {
    for (auto& partial : partials_) partial = hn::Zero(D());
  }
  // Adds elements [v * kLanes, (v + 1) * kLanes) of a group of 16; missing ones must be zero.
  HWY_INLINE void Add(size_t v, hn::Vec<D> terms) { partials_[v] = hn::Add(partials_[v], terms); }

  HWY_INLINE float Sum() const {
    HWY_ALIGN float p[16];
    for (size_t v = 0; v < kVectors; ++v) hn::Store(partials_[v], D(), p + v * kLanes);
    const hn::FixedTag<float, 4> d4;
    const auto a = hn::Add(hn::Load(d4, p), hn::Load(d4, p + 8));
    const auto b = hn::Add(hn::Load(d4, p + 4), hn::Load(d4, p + 12));
    hn::Store(hn::Add(a, b), d4, p);
    return (p[0] + p[2]) + (p[1] + p[3]);
  }

 private:
  hn::Vec<D> partials_[kVectors];
};

namespace sweep {

// Calls f(inputs..., outputs&..., terms&...) on the vectors that load(pointer) gives, and has store(vector,
// pointer) take the outputs. Inputs are read before outputs are written, so that an array may be both.
template <class D, class F, class Load, class Store, size_t kIn, size_t kOut, size_t kSums, size_t... I,
          size_t... O, size_t... S>
HWY_INLINE void Step(D, int64_t offset, const std::array<float*, kOut>& out,
                     const std::array<const float*, kIn>& in, hn::Vec<D> (&terms)[kSums], const F& f,
                     const Load& load, const Store& store, std::index_sequence<I...>,
                     std::index_sequence<O...>, std::index_sequence<S...>) {
  hn::Vec<D> results[kOut + 1];
  f(load(in[I] + offset)..., results[O]..., terms[S]...);
  (store(results[O], out[O] + offset), ...);
}

template <size_t kSums, class D, class F, size_t kIn, size_t kOut>
HWY_INLINE std::array<float, kSums> Run(D d, int64_t count, const std::array<float*, kOut>& out,
                                        const std::array<const float*, kIn>& in, const F& f) {
  using Partials = PartialSums<D>;
  using V = hn::Vec<D>;
  constexpr int64_t kLanes = Partials::kLanes;
  const std::make_index_sequence<kIn> ins;
  const std::make_index_sequence<kOut> outs;
  const std::make_index_sequence<kSums> sums;
  Partials partials[kSums + 1];
  V terms[kSums + 1];

  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (size_t v = 0; v < Partials::kVectors; ++v) {
      Step(
          d, i + static_cast<int64_t>(v) * kLanes, out, in, terms, f,
          [d](const float* p) HWY_ATTR { return hn::LoadU(d, p); },
          [d](V value, float* p) HWY_ATTR { hn::StoreU(value, d, p); }, ins, outs, sums);
      for (size_t s = 0; s < kSums; ++s) partials[s].Add(v, terms[s]);
    }
  }
  // The last 1..15 elements go through the same operations, zeros in place of what is missing.
  for (size_t v = 0; v < Partials::kVectors; ++v) {
    const int64_t offset = i + static_cast<int64_t>(v) * kLanes;
    if (offset >= count) break;
    const int64_t left = count - offset < kLanes ? count - offset : kLanes;
    const auto inside = hn::FirstN(d, static_cast<size_t>(left));
#if HWY_TARGET == HWY_NEON  // which would touch what it does not load
    const auto bytes = static_cast<size_t>(left) * sizeof(float);
    const auto load = [d, bytes](const float* p) HWY_ATTR {
      HWY_ALIGN float padded[kLanes] = {};
      std::memcpy(padded, p, bytes);
      return hn::Load(d, padded);
    };
    const auto store = [d, bytes](V value, float* p) HWY_ATTR {
      HWY_ALIGN float padded[kLanes];
      hn::Store(value, d, padded);
      std::memcpy(p, padded, bytes);
    };
#else
    const auto load = [d, inside](const float* p) HWY_ATTR { return hn::MaskedLoad(inside, d, p); };
    const auto store = [d, inside](V value, float* p) HWY_ATTR { hn::BlendedStore(value, inside, d, p); };
#endif
    Step(d, offset, out, in, terms, f, load, store, ins, outs, sums);
    for (size_t s = 0; s < kSums; ++s) partials[s].Add(v, hn::IfThenElseZero(inside, terms[s]));
  }
  std::array<float, kSums> result;
  for (size_t s = 0; s < kSums; ++s) result[s] = partials[s].Sum();
  return result;
}

}  // namespace sweep

// In all of these D is hn::CappedTag<float, 16>, arrays have `count` elements, and nothing past them is
// touched. An output may be the same array as an input. f is called on vectors and returns by reference; it
// must be a function of its elements alone, since it also sees the zeros that pad the last vector.

// f(inputs..., outputs&...).
template <class D, size_t kIn, size_t kOut, class F>
HWY_INLINE void ForEach(D d, int64_t count, std::array<float*, kOut> out, std::array<const float*, kIn> in,
                        const F& f) {
  sweep::Run<0>(d, count, out, in, f);
}

// f(inputs..., term&): the sum of the terms, by PartialSums.
template <class D, size_t kIn, class F>
HWY_INLINE float SumOf(D d, int64_t count, std::array<const float*, kIn> in, const F& f) {
  return sweep::Run<1>(d, count, Out(), in, f)[0];
}

template <class D>
HWY_INLINE float DotProduct(D d, int64_t count, const float* a, const float* b) {
  return SumOf(d, count, In(a, b), [](auto av, auto bv, auto& term) HWY_ATTR { term = hn::Mul(av, bv); });
}

// f(inputs..., outputs&..., terms&...): one pass that writes `out` and gives kSums sums.
template <size_t kSums, class D, size_t kIn, size_t kOut, class F>
HWY_INLINE std::array<float, kSums> ForEachWithSums(D d, int64_t count, std::array<float*, kOut> out,
                                                    std::array<const float*, kIn> in, const F& f) {
  return sweep::Run<kSums>(d, count, out, in, f);
}

// The largest element, minus infinity when there is none. (A zero is +0; NaN elements may be passed over.)
template <class D>
HWY_INLINE float MaxOf(D d, int64_t count, const float* x) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto largest = lowest;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) largest = hn::Max(largest, hn::LoadU(d, x + i));
  HWY_ALIGN float buffer[16];
  if (i < count) {
    hn::Store(lowest, d, buffer);
    std::memcpy(buffer, x + i, static_cast<size_t>(count - i) * sizeof(float));
    largest = hn::Max(largest, hn::Load(d, buffer));
  }
  hn::Store(largest, d, buffer);
  float result = buffer[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) result = buffer[lane] > result ? buffer[lane] : result;
  return result + 0.0f;
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
