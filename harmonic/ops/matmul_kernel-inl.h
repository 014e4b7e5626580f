// The per-target part of the matrix product: packing, the register kernel, and one tile of C.
//
// B is packed in panels of 16 columns, [panel][k][16], so that one iteration over k reads adjacent memory. A
// is copied a block of rows at a time, in one of two forms, whichever is a plain copy of its source:
//   rows:    [row][kRowStride], element (r, k) at r * kRowStride + k; the odd stride spreads rows over the
//   cache's sets columns: for each panel of h rows [k][h], element (r, k) at k * h + r
// The kernel holds h rows of one, two or four panels of C in registers while it runs over k.

#if defined(HARMONIC_OPS_MATMUL_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_KERNEL_INL_H_
#undef HARMONIC_OPS_MATMUL_KERNEL_INL_H_
#else
#define HARMONIC_OPS_MATMUL_KERNEL_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

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
// Rows and panels of the largest kernel, by the number of registers: 14 x 2 of 32 with 16 lanes, 6 x 2 of 16
// with 8.
constexpr int64_t kMaxRows = kLanes == 16 ? 14 : 6;
constexpr int64_t kMaxPanels = kLanes == 16 ? 2 : 1;
// With few rows more panels are taken, for enough independent sums and enough streams from memory.
constexpr int64_t wide_panels(int64_t rows) {
  if (kLanes == 16) return rows <= 6 ? 4 : 2;
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

// ---- Packing ----

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

// `count` floats, with the sign turned when asked; count >= 4 in vectors that overlap at the end.
template <bool kNegate>
HWY_INLINE void CopyFloats(const float* from, int64_t count, float* to) {
  const auto copy = [&](auto d, int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, from + i);
    hn::StoreU(kNegate ? hn::Neg(v) : v, d, to + i);
  };
  const auto copy_all = [&](auto d) HWY_ATTR {
    constexpr int64_t kStep = hn::MaxLanes(d);
    for (int64_t i = 0; i + kStep <= count; i += kStep) copy(d, i);
    if (count % kStep != 0) copy(d, count - kStep);
  };
  if (count >= kLanes) return copy_all(Tag());
  if (count >= 8) return copy_all(hn::CappedTag<float, 8>());
  if (count >= 4) return copy_all(hn::CappedTag<float, 4>());
  for (int64_t i = 0; i < count; ++i) to[i] = kNegate ? -from[i] : from[i];
}

// Panels of rows of nearly one height: panel p of `count` begins at row rows * p / count.
HWY_INLINE int64_t row_panels(int64_t rows) { return ceil_div(rows, kMaxRows); }

template <bool kNegate>
void PackRows(MatrixView A, int64_t rows, int64_t K, bool by_rows, float* out) {
  if (by_rows) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = A.data + r * A.row_stride;
      float* to = out + r * kRowStride;
      if (A.col_stride == 1) {
        CopyFloats<kNegate>(from, K, to);
      } else {
        for (int64_t k = 0; k < K; ++k) to[k] = kNegate ? -from[k * A.col_stride] : from[k * A.col_stride];
      }
    }
    return;
  }
  const int64_t panels = row_panels(rows);
  for (int64_t k = 0; k < K; ++k) {
    const float* from = A.data + k * A.col_stride;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t begin = rows * p / panels, height = rows * (p + 1) / panels - begin;
      float* to = out + begin * K + k * height;
      if (A.row_stride == 1) {
        CopyFloats<kNegate>(from + begin, height, to);
      } else {
        for (int64_t r = 0; r < height; ++r) {
          const float a = from[(begin + r) * A.row_stride];
          to[r] = kNegate ? -a : a;
        }
      }
    }
  }
}

// ---- The register kernel ----

struct KernelCall {
  int64_t K;
  const float* a;
  const float* b;        // the first panel
  int64_t panel_stride;  // floats from one panel of b to the next
  float* c;
  int64_t ldc;
  bool from_c;        // start from the old c; otherwise from bias
  const float* bias;  // null for zero
};

template <int64_t kRows, int64_t kPanels, bool kByRows>
void Kernel(const KernelCall& call) {
  constexpr int64_t kVectors = kPanels * kPanelVectors;
  constexpr int64_t kNextRow = kByRows ? kRowStride : 1, kNextK = kByRows ? 1 : kRows;
  const Tag d;
  Vector acc[kRows][kVectors];
  if (call.from_c) {
#pragma GCC unroll 16
    for (int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int64_t v = 0; v < kVectors; ++v) acc[r][v] = hn::LoadU(d, call.c + r * call.ldc + v * kLanes);
  } else {
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vector start = call.bias ? hn::LoadU(d, call.bias + v * kLanes) : hn::Zero(d);
#pragma GCC unroll 16
      for (int64_t r = 0; r < kRows; ++r) acc[r][v] = start;
    }
  }
  const float* HWY_RESTRICT a = call.a;
  const float* HWY_RESTRICT b = call.b;
  const int64_t panel_stride = call.panel_stride;
  for (int64_t k = 0; k < call.K; ++k) {
    Vector bv[kVectors];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v)
      bv[v] = hn::LoadU(d, b + v / kPanelVectors * panel_stride + v % kPanelVectors * kLanes);
#pragma GCC unroll 16
    for (int64_t r = 0; r < kRows; ++r) {
      const Vector av = hn::Set(d, a[r * kNextRow]);
#pragma GCC unroll 16
      for (int64_t v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(av, bv[v], acc[r][v]);
    }
    a += kNextK;
    b += kPanel;
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(acc[r][v], d, call.c + r * call.ldc + v * kLanes);
}

using KernelFunction = void (*)(const KernelCall&);

template <int64_t kPanels, bool kByRows, size_t... kIndex>
constexpr std::array<KernelFunction, sizeof...(kIndex)> kernels_of(std::index_sequence<kIndex...>) {
  return {&Kernel<static_cast<int64_t>(kIndex) + 1, kPanels, kByRows>...};
}
template <int64_t kPanels, bool kByRows, int64_t kRows>
constexpr auto kKernels = kernels_of<kPanels, kByRows>(std::make_index_sequence<kRows>());

HWY_INLINE KernelFunction kernel_for(int64_t rows, int64_t panels, bool by_rows) {
  const auto row = static_cast<size_t>(rows - 1);
  if (panels == 1) return by_rows ? kKernels<1, true, kMaxRows>[row] : kKernels<1, false, kMaxRows>[row];
  constexpr int64_t kRowsOfTwo = kMaxPanels == 2 ? kMaxRows : 3, kRowsOfFour = kMaxPanels == 2 ? 6 : 1;
  if (panels == 2) {
    if constexpr (kMaxPanels == 2)
      if (by_rows) return kKernels<2, true, kRowsOfTwo>[row];
    return kKernels<2, false, kRowsOfTwo>[row];
  }
  return kKernels<4, false, kRowsOfFour>[row];
}

// Runs the kernel on `columns` columns, panels * 16 or fewer: fewer go through a buffer, since the last panel
// of C and bias may be a part of one only.
HWY_INLINE void RunKernel(int64_t rows, int64_t panels, bool by_rows, int64_t columns, KernelCall call) {
  const KernelFunction kernel = kernel_for(rows, panels, by_rows);
  if (columns == panels * kPanel) return kernel(call);
  HWY_ALIGN float buffer[kMaxRows * 4 * kPanel];
  const int64_t width = panels * kPanel;
  const size_t bytes = static_cast<size_t>(columns) * sizeof(float);
  float* c = call.c;
  std::memset(buffer, 0, static_cast<size_t>(rows * width) * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    if (call.from_c) {
      std::memcpy(buffer + r * width, c + r * call.ldc, bytes);
    } else if (call.bias) {
      std::memcpy(buffer + r * width, call.bias, bytes);
    }
  }
  const int64_t ldc = call.ldc;
  call.c = buffer;
  call.ldc = width;
  call.from_c = true;
  kernel(call);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(c + r * ldc, buffer + r * width, bytes);
}

// ---- Parts of a product, run by one thread ----

// Panels [begin, end) of B into their places in the packed form.
void PackPanels(const Product& product, int64_t begin, int64_t end, float* out) {
  const MatrixView B = product.B;
  for (int64_t p = begin; p < end; ++p)
    PackPanel({B.data + p * kPanel * B.col_stride, B.row_stride, B.col_stride}, product.K,
              std::min(kPanel, product.N - p * kPanel), out + p * product.K * kPanel);
}

// The tile of C of the given rows and panels. B comes packed, or is packed here, a block of k at a time.
void ComputeTile(const Product& product, const Tile& tile, float* a_block, float* b_block) {
  const int64_t rows = tile.row_end - tile.row_begin, K = product.K;
  const int64_t panels = row_panels(rows);
  const bool by_rows = product.A.col_stride == 1 || product.A.row_stride != 1;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(K, kBlockK));
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t k_begin = K * block / blocks, k_count = K * (block + 1) / blocks - k_begin;
    MatrixView A = product.A;
    A.data += tile.row_begin * A.row_stride + k_begin * A.col_stride;
    (product.negate ? PackRows<true> : PackRows<false>)(A, rows, k_count, by_rows, a_block);
    const float* b = b_block;
    int64_t panel_stride = k_count * kPanel, first_panel = tile.panel_begin;
    if (product.packed) {
      b = product.packed + k_begin * kPanel;
      panel_stride = K * kPanel;
      first_panel = 0;
    } else {
      MatrixView B = product.B;
      B.data += k_begin * B.row_stride;
      for (int64_t p = tile.panel_begin; p < tile.panel_end; ++p)
        PackPanel({B.data + p * kPanel * B.col_stride, B.row_stride, B.col_stride}, k_count,
                  std::min(kPanel, product.N - p * kPanel), b_block + (p - first_panel) * panel_stride);
    }
    for (int64_t p = tile.panel_begin; p < tile.panel_end; p += kMaxPanels) {
      const int64_t p_count = std::min(kMaxPanels, tile.panel_end - p), column = p * kPanel;
      for (int64_t i = 0; i < panels; ++i) {
        const int64_t r = rows * i / panels, height = rows * (i + 1) / panels - r;
        RunKernel(
            height, p_count, by_rows, std::min(p_count * kPanel, product.N - column),
            {k_count, a_block + r * (by_rows ? kRowStride : k_count), b + (p - first_panel) * panel_stride,
             panel_stride, product.C + (tile.row_begin + r) * product.ldc + column, product.ldc,
             product.from_c || block > 0, product.bias ? product.bias + column : nullptr});
      }
    }
  }
}

// Few rows: A is packed whole, by columns, and the panels of B stream past it.
void PackFewRows(const Product& product, float* out) {
  (product.negate ? PackRows<true> : PackRows<false>)(product.A, product.M, product.K, false, out);
}

void ComputeFewRows(const Product& product, int64_t panel_begin, int64_t panel_end, const float* a) {
  const int64_t M = product.M, K = product.K, panels = row_panels(M);
  const int64_t wide = wide_panels(ceil_div(M, panels));
  for (int64_t p = panel_begin; p < panel_end;) {
    int64_t p_count = wide;
    while (p_count > panel_end - p) p_count /= 2;
    const int64_t column = p * kPanel;
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t r = M * i / panels;
      RunKernel(
          M * (i + 1) / panels - r, p_count, false, std::min(p_count * kPanel, product.N - column),
          {K, a + r * K, product.packed + p * K * kPanel, K * kPanel, product.C + r * product.ldc + column,
           product.ldc, product.from_c, product.bias ? product.bias + column : nullptr});
    }
    p += p_count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
