// The per-target part of the matrix product: how A and B are laid out for the kernel.
//
// B is packed in panels of 16 columns, [panel][k][16], so that one iteration over k reads adjacent memory. A
// is copied a block of rows at a time, in one of two forms, whichever is a plain copy of its source:
//   rows:    [row][kRowStride], element (r, k) at r * kRowStride + k
//   columns: for each panel of rows [k][slot], element (r, k) at k * slot + r

#if defined(HARMONIC_OPS_MATMUL_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_PACK_INL_H_
#undef HARMONIC_OPS_MATMUL_PACK_INL_H_
#else
#define HARMONIC_OPS_MATMUL_PACK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "harmonic/base/checked.h"
#include "harmonic/ops/matmul_plan.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Tag>;
constexpr int64_t kLanes = hn::MaxLanes(Tag());
constexpr int64_t kPanelVectors = kPanel / kLanes;
// Rows and panels of the largest kernel: 28 sums of 32 registers with 16 lanes, 12 of 16 with 8.
constexpr int64_t kMaxRows = kLanes == 16 ? 14 : 6;
constexpr int64_t kMaxPanels = kLanes == 16 ? 2 : 1;
constexpr int64_t kSlot = kLanes == 16 ? 16 : 8;  // floats for each k of a panel of rows that lies by columns

// 4 columns x 8 of k: four rows of eight floats become eight groups of four.
HWY_INLINE void Transpose4x8(const float* from, int64_t stride, float* to) {
  const hn::CappedTag<float, 8> d;
  const hn::CappedTag<float, 4> d4;
  constexpr int64_t kStep = hn::MaxLanes(d);
  for (int64_t k = 0; k < 8; k += kStep) {
    const auto a = hn::LoadU(d, from + k), b = hn::LoadU(d, from + stride + k);
    const auto c = hn::LoadU(d, from + 2 * stride + k), e = hn::LoadU(d, from + 3 * stride + k);
    const auto ac0 = hn::InterleaveLower(d, a, c), ac1 = hn::InterleaveUpper(d, a, c);
    const auto be0 = hn::InterleaveLower(d, b, e), be1 = hn::InterleaveUpper(d, b, e);
    const auto store = [&](int64_t row, auto v) HWY_ATTR {
      if constexpr (kStep == 8) {
        hn::StoreU(hn::LowerHalf(d4, v), d4, to + (k + row) * kPanel);
        hn::StoreU(hn::UpperHalf(d4, v), d4, to + (k + row + 4) * kPanel);
      } else {
        hn::StoreU(v, d4, to + (k + row) * kPanel);
      }
    };
    store(0, hn::InterleaveLower(d, ac0, be0));
    store(1, hn::InterleaveUpper(d, ac0, be0));
    store(2, hn::InterleaveLower(d, ac1, be1));
    store(3, hn::InterleaveUpper(d, ac1, be1));
  }
}

// One panel: `columns` (1..16) columns of B from (0, 0) on, K rows, the missing columns zero.
void PackPanel(MatrixView B, int64_t K, int64_t columns, float* out) {
  int64_t k = 0;
  if (columns == kPanel && B.col_stride == 1) {
    const Tag d;
    for (; k < K; ++k)
      for (int64_t i = 0; i < kPanel; i += kLanes)
        hn::StoreU(hn::LoadU(d, B.data + k * B.row_stride + i), d, out + k * kPanel + i);
  } else if (columns == kPanel && B.row_stride == 1) {
    for (; k + 8 <= K; k += 8)
      for (int64_t n = 0; n < kPanel; n += 4)
        Transpose4x8(B.data + n * B.col_stride + k, B.col_stride, out + k * kPanel + n);
  }
  for (; k < K; ++k) {
    const float* row = B.data + k * B.row_stride;
    for (int64_t n = 0; n < kPanel; ++n) out[k * kPanel + n] = n < columns ? row[n * B.col_stride] : 0.0f;
  }
}

// ---- Narrow elements ----

using Bf16 = uint16_t;  // the upper half of a float
using Int8 = int8_t;

HWY_INLINE Vector LoadWeights(const float* b, Vector) { return hn::LoadU(Tag(), b); }
HWY_INLINE Vector LoadWeights(const Bf16* b, Vector) {
  const hn::RebindToUnsigned<Tag> d32;
  const hn::Rebind<Bf16, Tag> d16;
  return hn::BitCast(Tag(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, b))));
}
// One product that is rounded as round_rows rounded it.
HWY_INLINE Vector LoadWeights(const Int8* b, Vector scale) {
  const hn::RebindToSigned<Tag> d32;
  const hn::Rebind<Int8, Tag> d8;
  return hn::Mul(hn::ConvertTo(Tag(), hn::PromoteTo(d32, hn::LoadU(d8, b))), scale);
}

template <class W>
void WidenPanel(const W* from, int64_t K, const float* scales, float* out) {
  const Tag d;
  for (int64_t i = 0; i < kPanel; i += kLanes) {
    const Vector scale = scales ? hn::LoadU(d, scales + i) : hn::Zero(d);
    for (int64_t k = 0; k < K; ++k)
      hn::StoreU(LoadWeights(from + k * kPanel + i, scale), d, out + k * kPanel + i);
  }
}

// The numbers of a panel are exactly representable in the narrow form.
void NarrowPanel(const float* from, int64_t K, const float* scales, DType dtype, void* out) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> d32;
  for (int64_t i = 0; i < kPanel; i += kLanes) {
    if (dtype == DType::bf16) {
      const hn::Rebind<Bf16, Tag> d16;
      auto* to = static_cast<Bf16*>(out) + i;
      for (int64_t k = 0; k < K; ++k) {
        const auto upper = hn::ShiftRight<16>(hn::BitCast(d32, hn::LoadU(d, from + k * kPanel + i)));
        hn::StoreU(hn::TruncateTo(d16, upper), d16, to + k * kPanel);
      }
      continue;
    }
    const hn::Rebind<Int8, Tag> d8;
    const hn::Rebind<int16_t, Tag> d16;
    auto* to = static_cast<Int8*>(out) + i;
    const Vector scale = hn::LoadU(d, scales + i);
    const auto positive = hn::Gt(scale, hn::Zero(d));  // neither 0 nor NaN
    for (int64_t k = 0; k < K; ++k) {
      const Vector steps = hn::IfThenElseZero(positive, hn::Div(hn::LoadU(d, from + k * kPanel + i), scale));
      hn::StoreU(hn::DemoteTo(d8, hn::DemoteTo(d16, hn::NearestInt(steps))), d8, to + k * kPanel);
    }
  }
}

// See round_rows.
void RoundRowToBf16(int64_t count, float* row) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> d32;
  const auto round = [d, d32](Vector v) HWY_ATTR {
    const auto bits = hn::BitCast(d32, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
    const auto rounded =
        hn::And(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff))), hn::Set(d32, 0xffff0000u));
    // Infinity stays; NaN must not become it, nor lose the bits that make it one.
    const auto nan = hn::RebindMask(d32, hn::IsNaN(v));
    return hn::BitCast(d, hn::IfThenElse(nan, hn::Set(d32, 0x7fc00000u), rounded));
  };
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) hn::StoreU(round(hn::LoadU(d, row + k)), d, row + k);
  if (k == count) return;
  HWY_ALIGN float last[kLanes] = {};
  std::copy(row + k, row + count, last);
  hn::Store(round(hn::Load(d, last)), d, last);
  std::copy(last, last + (count - k), row + k);
}

// Returns the scale.
float RoundRowToInt8(int64_t count, float* row) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> d32;
  // The bits of magnitudes are ordered like the magnitudes, and NaN comes last.
  auto largest_bits = hn::Zero(d32);
  HWY_ALIGN float last[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  std::copy(row + whole, row + count, last);
  for (int64_t k = 0; k < whole; k += kLanes)
    largest_bits = hn::Max(largest_bits, hn::BitCast(d32, hn::Abs(hn::LoadU(d, row + k))));
  largest_bits = hn::Max(largest_bits, hn::BitCast(d32, hn::Abs(hn::Load(d, last))));
  const float largest = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(d32, largest_bits)));
  const hn::CappedTag<float, 4> d4;
  float scale = hn::GetLane(hn::Div(hn::Set(d4, largest), hn::Set(d4, 127.0f)));
  if (!(largest <= std::numeric_limits<float>::max())) {
    scale = std::numeric_limits<float>::quiet_NaN();
  } else if (largest < kSmallestRow) {
    scale = 0;
  }
  const Vector step = hn::Set(d, scale);
  const auto round = [=](Vector v) HWY_ATTR {
    return scale > 0 ? hn::Mul(hn::Round(hn::Div(v, step)), step) : step;  // 0 or NaN as a whole
  };
  for (int64_t k = 0; k < whole; k += kLanes) hn::StoreU(round(hn::LoadU(d, row + k)), d, row + k);
  hn::Store(round(hn::Load(d, last)), d, last);
  std::copy(last, last + (count - whole), row + whole);
  return scale;
}

HWY_INLINE int64_t row_panels(int64_t rows) { return ceil_div(rows, kMaxRows); }

// `rows` rows of A from (0, 0) on, K columns, negated when asked. Panel i of rows is rows [rows * i / panels,
// rows * (i + 1) / panels); by columns it lies at out + i * K * slot, `slot` floats for each k.
template <bool kNegate>
void PackRows(MatrixView A, int64_t rows, int64_t K, bool by_rows, int64_t slot, float* out) {
  const Tag d;
  const auto turned = [](auto v) HWY_ATTR { return kNegate ? hn::Neg(v) : v; };
  if (by_rows) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = A.data + r * A.row_stride;
      float* to = out + r * kRowStride;
      int64_t k = 0;
      if (A.col_stride == 1)
        for (; k + kLanes <= K; k += kLanes) hn::StoreU(turned(hn::LoadU(d, from + k)), d, to + k);
      for (; k < K; ++k) to[k] = kNegate ? -from[k * A.col_stride] : from[k * A.col_stride];
    }
    return;
  }
  // A few k at a time, so that the lines of A that several panels share are still in the cache.
  constexpr int64_t kStep = 16;
  const int64_t panels = row_panels(rows);
  for (int64_t k0 = 0; k0 < K; k0 += kStep) {
    const int64_t k1 = std::min(K, k0 + kStep);
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t begin = rows * i / panels, height = rows * (i + 1) / panels - begin;
      const float* from = A.data + begin * A.row_stride + k0 * A.col_stride;
      float* to = out + (i * K + k0) * slot;
      for (int64_t k = k0; k < k1; ++k, from += A.col_stride, to += slot) {
        if (A.row_stride == 1 && slot == kSlot) {
          for (int64_t r = 0; r < kSlot; r += kLanes) {  // a masked load never touches what it leaves out
            const auto inside = hn::FirstN(d, static_cast<size_t>(std::max<int64_t>(0, height - r)));
            hn::StoreU(turned(hn::MaskedLoad(inside, d, from + r)), d, to + r);
          }
        } else {
          for (int64_t r = 0; r < height; ++r)
            to[r] = kNegate ? -from[r * A.row_stride] : from[r * A.row_stride];
        }
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
