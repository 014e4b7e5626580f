// The per-target part of the matrix product: the register kernel, which holds some rows of one, two or four
// panels of C in registers while it runs over k, and the parts of a product that one thread computes with it.

#if defined(HARMONIC_OPS_MATMUL_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_KERNEL_INL_H_
#undef HARMONIC_OPS_MATMUL_KERNEL_INL_H_
#else
#define HARMONIC_OPS_MATMUL_KERNEL_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "harmonic/ops/matmul_copies-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// With few rows more panels are taken, for enough independent sums and enough streams from memory.
constexpr int64_t wide_panels(int64_t rows) {
  if (kLanes == 16) return rows <= 6 ? 4 : 2;
  return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

// Memory that will be used soon: a line of it is asked for at each k, so that it arrives while the kernel
// computes.
struct Stream {
  const float* line;
  int64_t step;   // floats to the next line
  int64_t count;  // lines; the last stream of a call goes on to the end
};

struct KernelCall {
  int64_t K;  // steps: of pairs, two k each
  const float* a;
  int64_t a_step;        // floats from one k to the next, when A lies by columns
  const void* b;         // the first panel
  int64_t panel_stride;  // elements, of blocks bytes, from one panel of b to the next
  float* c;
  int64_t ldc;
  bool from_c;                    // start from the old c; otherwise from bias
  const float* bias;              // null for zero
  const float* scales = nullptr;  // of the columns, where b holds i8
  // The lines of C that the next kernel takes, in up to three columns of lines, then what comes later.
  std::array<Stream, 4> streams;
};

template <class W>
constexpr bool kOfBlocks = std::is_same_v<W, BlocksQ8_0> || std::is_same_v<W, BlocksQ4_1>;

// The sums of a kernel over all k, where b is blocks.
template <int64_t kRows, int64_t kVectors, class Blocks>
HWY_INLINE void AddBlocks(const KernelCall& call, Vector (&acc)[kRows][kVectors]) {
  const Tag d;
  const float* HWY_RESTRICT a = call.a;
  const auto* HWY_RESTRICT b = static_cast<const uint8_t*>(call.b);
  const auto at = [&](int64_t v) { return b + v / kPanelVectors * call.panel_stride; };
  for (int64_t k = 0; k < call.K; k += kBlockNumbers, b += panel_block_bytes(Blocks::kDType)) {
    Blocks blocks[kVectors];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) blocks[v].Begin(at(v), v % kPanelVectors * kLanes);
    for (int64_t byte = 0; byte < kBlockNumbers / Blocks::kNumbersOfByte; ++byte) {
#pragma GCC unroll 2
      for (int64_t part = 0; part < Blocks::kNumbersOfByte; ++part, a += call.a_step) {
        Vector bv[kVectors];
#pragma GCC unroll 16
        for (int64_t v = 0; v < kVectors; ++v)
          bv[v] = blocks[v].Load(at(v), v % kPanelVectors * kLanes, byte, part);
#pragma GCC unroll 16
        for (int64_t r = 0; r < kRows; ++r) {
          const Vector av = hn::Set(d, a[r]);
#pragma GCC unroll 16
          for (int64_t v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(av, bv[v], acc[r][v]);
        }
      }
    }
  }
}

template <class W>
HWY_INLINE Vector MultiplyAdd(Vector a, Vector b, Vector sum) {
  if constexpr (std::is_same_v<W, Pair>) {
    return MultiplyAddPairs(a, b, sum);
  } else {
    return hn::MulAdd(a, b, sum);
  }
}

// W: what b holds. Of pairs, a holds pairs too.
template <int64_t kRows, int64_t kPanels, bool kByRows, class W>
void Kernel(const KernelCall& call) {
  constexpr int64_t kVectors = kPanels * kPanelVectors;
  constexpr int64_t kNextRow = kByRows ? kRowStride : 1;
  const int64_t a_step = kByRows ? 1 : call.a_step;
  const Tag d;
  float* HWY_RESTRICT c = call.c;
  const int64_t ldc = call.ldc;
  Vector acc[kRows][kVectors];
  if (call.from_c) {
#pragma GCC unroll 16
    for (int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int64_t v = 0; v < kVectors; ++v) acc[r][v] = hn::LoadU(d, c + r * ldc + v * kLanes);
  } else {
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vector start = call.bias ? hn::LoadU(d, call.bias + v * kLanes) : hn::Zero(d);
#pragma GCC unroll 16
      for (int64_t r = 0; r < kRows; ++r) acc[r][v] = start;
    }
  }
  if constexpr (kOfBlocks<W>) {
    AddBlocks<kRows, kVectors, W>(call, acc);
  } else {
    const float* HWY_RESTRICT a = call.a;
    const W* HWY_RESTRICT b = static_cast<const W*>(call.b);
    Vector scales[kVectors];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v)
      scales[v] = std::is_same_v<W, Int8> ? hn::LoadU(d, call.scales + v * kLanes) : hn::Zero(d);
    const int64_t panel_stride = call.panel_stride;
    // A number, since it goes beyond the last panels of all, where nothing may point to.
    auto upcoming =
        reinterpret_cast<uintptr_t>(b) + static_cast<uintptr_t>(kPanels * panel_stride) * sizeof(W);
    constexpr int64_t kLineSteps = 64 / (kPanel * int64_t{sizeof(W)});  // k of a panel in a line of memory
    int64_t k = 0;
    for (size_t i = 0; i < call.streams.size(); ++i) {
      const float* line = call.streams[i].line;
      const int64_t line_step = call.streams[i].step;
      const int64_t end = i + 1 == call.streams.size() ? call.K : std::min(call.K, k + call.streams[i].count);
      for (; k < end; ++k) {
        __builtin_prefetch(line, 0, 2);  // into the L2 cache
        line += line_step;
        if (kRows == 1 && kPanels > 1 && k % kLineSteps == 0) {
          // What one row is multiplied by comes from memory, in panels too short for the processor to
          // foresee: the ones that the next call of the kernel reads, if there is one.
#pragma GCC unroll 16
          for (int64_t p = 0; p < kPanels; ++p)
            __builtin_prefetch(reinterpret_cast<const void*>(
                                   upcoming + static_cast<uintptr_t>(p * panel_stride) * sizeof(W)),
                               0, 2);
          upcoming += kLineSteps * kPanel * sizeof(W);
        }
        Vector bv[kVectors];
#pragma GCC unroll 16
        for (int64_t v = 0; v < kVectors; ++v)
          bv[v] = LoadWeights(b + v / kPanelVectors * panel_stride + v % kPanelVectors * kLanes, scales[v]);
#pragma GCC unroll 16
        for (int64_t r = 0; r < kRows; ++r) {
          const Vector av = hn::Set(d, a[r * kNextRow]);
#pragma GCC unroll 16
          for (int64_t v = 0; v < kVectors; ++v) acc[r][v] = MultiplyAdd<W>(av, bv[v], acc[r][v]);
        }
        a += a_step;
        b += kPanel;
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(acc[r][v], d, c + r * ldc + v * kLanes);
}

using KernelFunction = void (*)(const KernelCall&);

template <int64_t kPanels, bool kByRows, class W, size_t... kIndex>
constexpr std::array<KernelFunction, sizeof...(kIndex)> kernels_of(std::index_sequence<kIndex...>) {
  return {&Kernel<static_cast<int64_t>(kIndex) + 1, kPanels, kByRows, W>...};
}
template <int64_t kPanels, bool kByRows, int64_t kRows, class W = float>
constexpr auto kKernels = kernels_of<kPanels, kByRows, W>(std::make_index_sequence<kRows>());

// The rows that kernels of two panels and of four have at most.
constexpr int64_t kRowsOfTwo = kMaxPanels == 2 ? kMaxRows : 3, kRowsOfFour = kMaxPanels == 2 ? 6 : 1;

// For A by columns.
template <class W>
HWY_INLINE KernelFunction kernel_by_columns(int64_t rows, int64_t panels) {
  const auto row = static_cast<size_t>(rows - 1);
  if (panels == 1) return kKernels<1, false, kMaxRows, W>[row];
  return panels == 2 ? kKernels<2, false, kRowsOfTwo, W>[row] : kKernels<4, false, kRowsOfFour, W>[row];
}

HWY_INLINE KernelFunction kernel_for(int64_t rows, int64_t panels, bool by_rows, DType dtype) {
  const auto row = static_cast<size_t>(rows - 1);
  if (dtype == DType::bf16) return kernel_by_columns<Bf16>(rows, panels);
  if (dtype == DType::i8) return kernel_by_columns<Int8>(rows, panels);
  if (dtype == DType::q8_0) return kernel_by_columns<BlocksQ8_0>(rows, panels);
  if (dtype == DType::q4_1) return kernel_by_columns<BlocksQ4_1>(rows, panels);
  if (by_rows && panels == 1) return kKernels<1, true, kMaxRows>[row];
  if constexpr (kMaxPanels == 2)
    if (by_rows && panels == 2) return kKernels<2, true, kRowsOfTwo>[row];
  return kernel_by_columns<float>(rows, panels);
}

// For pairs; at most kMaxPanels.
template <bool kThereAre = kMultipliesPairs>
HWY_INLINE KernelFunction pair_kernel_for(int64_t rows, int64_t panels, bool by_rows) {
  if constexpr (kThereAre) {
    const auto row = static_cast<size_t>(rows - 1);
    if (panels == 1)
      return by_rows ? kKernels<1, true, kMaxRows, Pair>[row] : kKernels<1, false, kMaxRows, Pair>[row];
    return by_rows ? kKernels<2, true, kMaxRows, Pair>[row] : kKernels<2, false, kMaxRows, Pair>[row];
  } else {
    return nullptr;
  }
}

// Runs the kernel on `columns` columns, panels * 16 or fewer: fewer go through a buffer, since the last panel
// of C and bias may be a part of one only.
HWY_INLINE void RunKernel(KernelFunction kernel, int64_t rows, int64_t panels, int64_t columns,
                          KernelCall call) {
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

// Lines of A and B that the next block of k, or the next tile, will pack: one stream at a time, each for the
// length of a kernel's run.
class UpcomingLines {
 public:
  // `extent` lines `step` floats apart from `data` on, and `width` floats of each.
  void Add(const float* data, int64_t step, int64_t extent, int64_t width, int64_t run) {
    if (extent == 0 || width == 0) return;
    const int64_t lines = ceil_div(width, kLineFloats), pieces = ceil_div(extent, std::max<int64_t>(1, run));
    sources_[count_++] = {data, step, ceil_div(extent, pieces) * step, pieces, lines * pieces};
  }
  HWY_INLINE bool Empty() const { return current_ == count_; }
  HWY_INLINE Stream Next() {
    const Source& source = sources_[current_];
    const int64_t line = next_ / source.pieces, piece = next_ % source.pieces;
    if (++next_ == source.streams) ++current_, next_ = 0;
    return {source.data + piece * source.piece_step + line * kLineFloats, source.step, 0};
  }

 private:
  static constexpr int64_t kLineFloats = 16;
  struct Source {
    const float* data;
    int64_t step, piece_step, pieces, streams;
  };
  Source sources_[2];
  int64_t count_ = 0, current_ = 0, next_ = 0;
};

// A block of A, rows x k_count, as the source of a copy.
void AddLines(UpcomingLines& lines, MatrixView A, int64_t rows, int64_t k_count, int64_t run) {
  if (A.col_stride == 1) {
    lines.Add(A.data, A.row_stride, rows, k_count, run);
  } else if (A.row_stride == 1) {
    lines.Add(A.data, A.col_stride, k_count, rows, run);
  }
}

// Floats of a_block for a tile of so many rows, in any form.
int64_t TileAFloats(int64_t rows) {
  return round_up(std::max(round_up(rows, kPanel) * kRowStride, row_panels(rows) * kBlockK * kSlot), kPanel);
}

// The tile of C of the given rows and panels. B comes packed, or is packed here, a block of k at a time.
void ComputeTile(const Product& product, const Tile& tile, float* a_block, float* b_block) {
  // Any other form is brought into b_block, as what is not packed is packed into it.
  const auto* packed = is_ready(product) ? static_cast<const float*>(product.packed.data) : nullptr;
  // What is brought from a narrow form is asked for before, so that memory and arithmetic go on together.
  const DType dtype = product.packed.dtype;
  const bool is_narrow = (dtype == DType::bf16 || dtype == DType::i8) && !product.in_bf16;
  const auto* narrow = is_narrow ? static_cast<const char*>(product.packed.data) : nullptr;
  const int64_t narrow_k = is_narrow ? kPanel * size_of(dtype) : 0;  // bytes of a k of a panel
  // In steps of the kernel, `each` k in one; K and k count these.
  const int64_t each = step_of(product), K = ceil_div(product.K, each);
  const int64_t rows = tile.row_end - tile.row_begin;
  const int64_t panels = row_panels(rows);
  const int64_t first_column = tile.panel_begin * kPanel;
  const int64_t columns = std::min(tile.panel_end * kPanel, product.N) - first_column;
  const bool by_rows = product.A.col_stride == 1 || product.A.row_stride != 1;
  // A pair of panels that is copied here from rows of B shares the L1 cache with its source.
  const int64_t most_k = product.packed.data || product.B.col_stride != 1 ? kBlockK : kBlockK / 2;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(K, most_k));
  const auto a_at = [&](int64_t row, int64_t k) -> MatrixView {
    const MatrixView& A = product.A;
    return {A.data + row * A.row_stride + k * each * A.col_stride, A.row_stride, A.col_stride};
  };
  const auto b_at = [&](int64_t k, int64_t column) -> MatrixView {
    const MatrixView& B = product.B;
    return {B.data + k * each * B.row_stride + column * B.col_stride, B.row_stride, B.col_stride};
  };
  // A whose columns lie near each other in memory, as the kernel reads them, needs no copy.
  const bool in_place =
      !by_rows && product.A.col_stride <= kInPlaceStride && !product.negate && !product.in_bf16;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t k_begin = K * block / blocks, k_end = K * (block + 1) / blocks, k_count = k_end - k_begin;
    const int64_t numbers = std::min(k_end * each, product.K) - k_begin * each;  // of k
    if (!in_place) PackRowsFor(product, a_at(tile.row_begin, k_begin), rows, numbers, by_rows, a_block);
    UpcomingLines upcoming;
    if (block + 1 < blocks) {
      const int64_t next_count = (K * (block + 2) / blocks - k_end) * each;
      AddLines(upcoming, a_at(tile.row_begin, k_end), rows, next_count, k_count);
      if (!product.packed.data)
        AddLines(upcoming, b_at(k_end, first_column).transposed(), columns, next_count, k_count);
    } else if (tile.next_row < product.M) {
      AddLines(upcoming, a_at(tile.next_row, 0), std::min(rows, product.M - tile.next_row), K / blocks * each,
               k_count);
    }
    for (int64_t p = tile.panel_begin; p < tile.panel_end; p += kMaxPanels) {
      const int64_t p_count = std::min(kMaxPanels, tile.panel_end - p), column = p * kPanel;
      const float* b = b_block;
      int64_t panel_stride = k_count * kPanel;
      if (packed) {
        b = packed + p * K * kPanel + k_begin * kPanel;
        panel_stride = K * kPanel;
      } else {
        for (int64_t q = 0; q < p_count; ++q)
          BringPanel(product, p + q, k_begin * each, numbers, b_block + q * panel_stride);
      }
      for (int64_t i = 0; i < panels; ++i) {
        const int64_t r = rows * i / panels, height = rows * (i + 1) / panels - r;
        const float* a = in_place  ? a_at(tile.row_begin + r, k_begin).data
                         : by_rows ? a_block + r * kRowStride
                                   : a_block + i * k_count * kSlot;
        Stream stream = {a, 0, 0};
        if (packed && i < kMaxPanels && p + kMaxPanels + i < tile.panel_end) {
          stream = {b + (kMaxPanels + i) * panel_stride, kPanel, 0};
        } else if (narrow && i < kMaxPanels && p + kMaxPanels + i < tile.panel_end) {
          stream = {reinterpret_cast<const float*>(narrow + ((p + kMaxPanels + i) * K + k_begin) * narrow_k),
                    narrow_k / int64_t{sizeof(float)}, 0};
        } else if (!upcoming.Empty()) {
          stream = upcoming.Next();
        }
        float* c = product.C + (tile.row_begin + r) * product.ldc + column;
        // The next kernel's part of C lies below, or at the top of the next panels; its rows may start within
        // a line.
        const float* c_next =
            i + 1 < panels ? c + height * product.ldc : c - r * product.ldc + kMaxPanels * kPanel;
        const bool third_line = product.ldc % kPanel != 0 || reinterpret_cast<uintptr_t>(c) % 64 != 0;
        const auto c_stream = [&](int64_t line) HWY_ATTR -> Stream {
          return {c_next + (line < 2 ? line * kPanel : 2 * kPanel - 1), product.ldc,
                  line < kMaxPanels || (line == kMaxPanels && third_line) ? height : 0};
        };
        RunKernel(product.in_bf16 ? pair_kernel_for(height, p_count, by_rows)
                                  : kernel_for(height, p_count, by_rows, DType::f32),
                  height, p_count, std::min(p_count * kPanel, product.N - column),
                  {.K = k_count,
                   .a = a,
                   .a_step = in_place ? product.A.col_stride : kSlot,
                   .b = b,
                   .panel_stride = panel_stride,
                   .c = c,
                   .ldc = product.ldc,
                   .from_c = product.from_c || block > 0,
                   .bias = product.bias ? product.bias + column : nullptr,
                   .scales = nullptr,
                   .streams = {c_stream(0), c_stream(1), c_stream(2), stream}});
      }
    }
  }
}

// Few rows: A is packed whole, by columns, and the panels of B stream past it.
HWY_INLINE int64_t few_rows_slot(int64_t rows) { return ceil_div(rows, row_panels(rows)); }

int64_t FewRowsFloats(int64_t rows, int64_t K) { return row_panels(rows) * K * few_rows_slot(rows); }

void PackFewRows(const Product& product, float* out) {
  const auto pack = product.negate ? PackRows<true> : PackRows<false>;
  pack(product.A, product.M, product.K, false, few_rows_slot(product.M), out);
}

void ComputeFewRows(const Product& product, int64_t panel_begin, int64_t panel_end, const float* a) {
  const int64_t M = product.M, K = product.K, panels = row_panels(M), slot = few_rows_slot(M);
  const DType dtype = product.packed.dtype;
  const auto* packed = static_cast<const char*>(product.packed.data);
  const int64_t panel_step = panel_bytes(dtype, K);
  for (int64_t p = panel_begin; p < panel_end;) {
    int64_t p_count = wide_panels(slot);
    while (p_count > panel_end - p) p_count /= 2;
    const int64_t column = p * kPanel;
    const char* b = packed + p * panel_step;
    // Two panels or one are too few streams to keep the memory busy: ask for the one that comes next.
    const bool ask = p_count <= 2 && p + p_count < panel_end;
    for (int64_t i = 0; i < panels; ++i) {
      const Stream none = {a, 0, 0}, next = {reinterpret_cast<const float*>(b + p_count * panel_step),
                                             kPanel * size_of(dtype) / int64_t{sizeof(float)}, 0};
      const int64_t r = M * i / panels, height = M * (i + 1) / panels - r;
      RunKernel(kernel_for(height, p_count, false, dtype), height, p_count,
                std::min(p_count * kPanel, product.N - column),
                {.K = K,
                 .a = a + i * K * slot,
                 .a_step = slot,
                 .b = b,
                 .panel_stride = is_blocks(dtype) ? panel_step : K * kPanel,
                 .c = product.C + r * product.ldc + column,
                 .ldc = product.ldc,
                 .from_c = product.from_c,
                 .bias = product.bias ? product.bias + column : nullptr,
                 .scales = dtype == DType::i8 ? scales_of(product.packed) + column : nullptr,
                 .streams = {none, none, none, ask && i == 0 ? next : none}});
    }
    p += p_count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
