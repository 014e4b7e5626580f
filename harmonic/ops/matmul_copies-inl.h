// The per-target part of the matrix product: copies of A and B in the forms that kernels read, from whatever
// form they have.

#if defined(HARMONIC_OPS_MATMUL_COPIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_COPIES_INL_H_
#undef HARMONIC_OPS_MATMUL_COPIES_INL_H_
#else
#define HARMONIC_OPS_MATMUL_COPIES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "harmonic/ops/matmul_blocks-inl.h"
#include "harmonic/ops/matmul_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

HWY_INLINE void PackPanelFor(const Product& product, MatrixView B, int64_t K, int64_t columns, float* out) {
  if constexpr (kMultipliesPairs) {
    if (product.in_bf16) return PackPairPanel(B, K, columns, out);
  }
  PackPanel(B, K, columns, out);
}

HWY_INLINE void PackRowsFor(const Product& product, MatrixView A, int64_t rows, int64_t K, bool by_rows,
                            float* out) {
  if constexpr (kMultipliesPairs) {
    if (product.in_bf16)
      return (product.negate ? PackPairRows<true> : PackPairRows<false>)(A, rows, K, by_rows, out);
  }
  (product.negate ? PackRows<true> : PackRows<false>)(A, rows, K, by_rows, kSlot, out);
}

// Panels [begin, end) of B into their places in the packed form.
void PackPanels(const Product& product, int64_t begin, int64_t end, float* out) {
  const MatrixView B = product.B;
  const int64_t steps = ceil_div(product.K, step_of(product));
  for (int64_t p = begin; p < end; ++p)
    PackPanelFor(product, {B.data + p * kPanel * B.col_stride, B.row_stride, B.col_stride}, product.K,
                 std::min(kPanel, product.N - p * kPanel), out + p * steps * kPanel);
}

// Panels [begin, end) of a narrow form, through a buffer that holds some k of one.
void PackNarrowPanels(const Product& product, int64_t begin, int64_t end, DType dtype, const float* scales,
                      void* out) {
  HWY_ALIGN float panel[kBlockK * kPanel];
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t k = 0; k < product.K; k += kBlockK) {
      const int64_t count = std::min(kBlockK, product.K - k);
      const MatrixView& B = product.B;
      PackPanel({B.data + k * B.row_stride + p * kPanel * B.col_stride, B.row_stride, B.col_stride}, count,
                std::min(kPanel, product.N - p * kPanel), panel);
      NarrowPanel(panel, count, scales ? scales + p * kPanel : nullptr, dtype,
                  static_cast<char*>(out) + (p * product.K + k) * kPanel * size_of(dtype));
    }
  }
}

// k [k_begin, k_begin + k_count) of panel p of a packed matrix, as floats.
void WidenFrom(const PackedMatrix& packed, int64_t p, int64_t k_begin, int64_t k_count, float* out) {
  const int64_t at = (p * packed.K + k_begin) * kPanel;
  if (is_blocks(packed.dtype)) {
    const auto* panel = static_cast<const uint8_t*>(packed.data) + p * panel_bytes(packed.dtype, packed.K);
    (packed.dtype == DType::q8_0 ? WidenBlocks<BlocksQ8_0> : WidenBlocks<BlocksQ4_1>)(panel, k_begin, k_count,
                                                                                      out);
  } else if (packed.dtype == DType::bf16) {
    WidenPanel(static_cast<const Bf16*>(packed.data) + at, k_count, nullptr, out);
  } else if (packed.dtype == DType::i8) {
    WidenPanel(static_cast<const Int8*>(packed.data) + at, k_count, scales_of(packed) + p * kPanel, out);
  } else {
    std::memcpy(out, static_cast<const float*>(packed.data) + at,
                static_cast<size_t>(k_count * kPanel) * sizeof(float));
  }
}

// k [k_begin, k_begin + k_count) of panel p of B, whatever form that has, as the kernel reads them.
void BringPanel(const Product& product, int64_t p, int64_t k_begin, int64_t k_count, float* out) {
  if (product.packed.data == nullptr) {
    const MatrixView& B = product.B;
    PackPanelFor(product,
                 {B.data + k_begin * B.row_stride + p * kPanel * B.col_stride, B.row_stride, B.col_stride},
                 k_count, std::min(kPanel, product.N - p * kPanel), out);
  } else if (product.in_bf16) {
    HWY_ALIGN float wide[2 * kBlockK * kPanel];
    WidenFrom(product.packed, p, k_begin, k_count, wide);
    PackPanelFor(product, {wide, kPanel, 1}, k_count, kPanel, out);
  } else {
    WidenFrom(product.packed, p, k_begin, k_count, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
