#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/matmul_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/matmul_amx-inl.h"
#include "harmonic/ops/matmul_kernel-inl.h"

#if HWY_ONCE
#include <algorithm>
#include <atomic>

#include "harmonic/ops/bf16_instructions.h"

namespace harmonic {
namespace {

HWY_EXPORT(PackPanels);
HWY_EXPORT(TileAFloats);
HWY_EXPORT(ComputeTile);
HWY_EXPORT(ComputeTileWithAmx);
HWY_EXPORT(FewRowsFloats);
HWY_EXPORT(PackFewRows);
HWY_EXPORT(ComputeFewRows);
HWY_EXPORT(PackNarrowPanels);
HWY_EXPORT(RoundRowToBf16);
HWY_EXPORT(RoundRowToInt8);
HWY_EXPORT(MultipliesPairs);

constexpr int64_t kSharedFloats = 4 << 20;  // most of B that is packed at once for all threads
constexpr int64_t kSharedDepth = 1024;      // of k that this part has at least
constexpr int64_t kOwnPanels = 32;          // most panels of B that a thread packs for itself
constexpr int64_t kSmallestTileRows = 24;   // below this, reading B costs more than computing
constexpr int64_t kPackGrain = 64 << 10;    // floats: smaller matrices are packed by one thread

int64_t panels_of(int64_t columns) { return ceil_div(columns, kPanel); }

// Calls body(begin, end) on all threads for panels of a matrix that is packed.
template <typename Body>
void for_panels(ThreadPool& pool, const Product& product, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kPackGrain / std::max<int64_t>(1, product.K * kPanel));
  pool.parallel_ranges(panels_of(product.N), grain, body);
}

void pack(ThreadPool& pool, const Product& product, float* out) {
  for_panels(pool, product, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(PackPanels)(product, begin, end, out);
  });
}

Product of_matrix(int64_t K, int64_t N, MatrixView B, Precision precision = Precision::f32) {
  return {.N = N, .K = K, .B = B, .in_bf16 = precision == Precision::bf16};
}

Product product_of(int64_t M, int64_t N, int64_t K, MatrixView A, MatrixView B, float* C, int64_t ldc,
                   MatmulMode mode, const float* bias, Precision precision) {
  const bool in_bf16 = precision == Precision::bf16;
  return {.M = M,
          .N = N,
          .K = K,
          .A = A,
          .B = B,
          .C = C,
          .ldc = ldc,
          .from_c = mode != MatmulMode::overwrite,
          .negate = mode == MatmulMode::subtract,
          .bias = bias,
          .in_bf16 = in_bf16,
          .with_amx = in_bf16 && bf16_instructions() == Bf16Instructions::tiles};
}

// How C is cut into tiles: `rows` by `columns` of them, of nearly equal size.
struct Grid {
  int64_t rows, columns;
};

Grid grid_for(int64_t M, int64_t N, int64_t threads, int64_t most_panels) {
  // As many tiles of rows for each thread; when rows are few, columns are cut as well.
  int64_t rows = ceil_div(M, kTileRows);
  if (threads > 1) rows = std::min(round_up(rows, threads), std::max<int64_t>(1, M / kSmallestTileRows));
  const int64_t panels = panels_of(N);
  int64_t columns = std::min(std::max<int64_t>(1, threads / rows), ceil_div(panels, 2));
  columns = std::max(columns, ceil_div(panels, most_panels));
  return {rows, columns};
}

// For a B that is packed as a whole. With few rows, as of texts that are decoded together, every thread is
// better off with columns of its own, which it alone reads and widens; several tiles for each, since threads
// are not equally fast.
Grid grid_for_packed(int64_t M, int64_t N, int64_t threads) {
  const int64_t panels = panels_of(N);
  if (threads == 1 || M > kTileRows / 2 || panels < kOwnPanels * threads)
    return grid_for(M, N, threads, panels);
  return {1, std::min(4 * threads, panels / (kOwnPanels / 4))};
}

void run_tiles(ThreadPool& pool, Arena& scratch, const Product& product, const Grid& grid) {
  const int64_t panels = panels_of(product.N), tiles = grid.rows * grid.columns;
  const int64_t workers = std::min<int64_t>(pool.threads(), tiles);
  const int64_t a_floats = HWY_DYNAMIC_DISPATCH(TileAFloats)(ceil_div(product.M, grid.rows));
  // Pairs of panels stay together: begin of tile j of columns.
  const auto panel_at = [&](int64_t j) {
    return std::min(panels, ceil_div(panels, 2) * j / grid.columns * 2);
  };
  const int64_t b_floats =
      is_ready(product) ? 0 : 2 * kPanel * std::min(round_up(product.K, kPanel), kBlockK);
  const ArenaScope scope(scratch);
  float* blocks = scratch.allocate_array<float>(workers * (a_floats + b_floats));
  std::atomic<int64_t> next = 0;
  pool.parallel_for(workers, [&](int64_t worker) {
    float* a_block = blocks + worker * (a_floats + b_floats);
    for (int64_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tiles;) {
      const int64_t i = t / grid.columns, j = t % grid.columns;
      const int64_t next_i = std::min((t + workers) / grid.columns, grid.rows);
      const Tile tile = {product.M * i / grid.rows, product.M * (i + 1) / grid.rows, panel_at(j),
                         panel_at(j + 1), product.M * next_i / grid.rows};
      if (product.with_amx) {
        HWY_DYNAMIC_DISPATCH(ComputeTileWithAmx)(product, tile, a_block, a_block + a_floats);
      } else {
        HWY_DYNAMIC_DISPATCH(ComputeTile)(product, tile, a_block, a_block + a_floats);
      }
    }
  });
}

// Up to kFewRows rows: the work is to read B, so that threads share its panels.
void run_few_rows(ThreadPool& pool, Arena& scratch, const Product& product) {
  const ArenaScope scope(scratch);
  const float* a = product.A.data;
  if (product.M > 1 || product.A.col_stride != 1 || product.negate) {
    float* packed = scratch.allocate_array<float>(HWY_DYNAMIC_DISPATCH(FewRowsFloats)(product.M, product.K));
    HWY_DYNAMIC_DISPATCH(PackFewRows)(product, packed);
    a = packed;
  }
  // Groups of four panels, in enough parts that a thread which is late leaves its share to the others.
  const int64_t panels = panels_of(product.N), groups = ceil_div(panels, 4);
  const int64_t parts = std::min(groups, pool.threads() == 1 ? 1 : pool.threads() * int64_t{4});
  pool.parallel_for(parts, [&](int64_t part) {
    HWY_DYNAMIC_DISPATCH(ComputeFewRows)
    (product, std::min(panels, groups * part / parts * 4), std::min(panels, groups * (part + 1) / parts * 4),
     a);
  });
}

void check(int64_t M, int64_t N, int64_t K, int64_t ldc, MatmulMode mode, const float* bias,
           Precision precision) {
  HARMONIC_ASSERT(M >= 0 && N >= 0 && K >= 0 && (ldc >= N || M <= 1));
  HARMONIC_ASSERT(bias == nullptr || mode == MatmulMode::overwrite);
  HARMONIC_ASSERT(precision == Precision::f32 || multiplies_in_bf16());
}

}  // namespace

bool kernels_multiply_pairs() { return HWY_DYNAMIC_DISPATCH(MultipliesPairs)(); }

int64_t packed_size(int64_t K, int64_t N, DType dtype) {
  if (is_blocks(dtype)) {
    HARMONIC_ASSERT(K % kBlockNumbers == 0);
    return checked_mul(panels_of(N),
                       checked_mul(K / kBlockNumbers, panel_block_bytes(dtype), "packed matrix"),
                       "packed matrix");
  }
  const int64_t columns = checked_mul(panels_of(N), kPanel, "packed matrix");
  const int64_t scales = dtype == DType::i8 ? static_cast<int64_t>(sizeof(float)) : 0;
  return checked_mul(columns, K + scales, "packed matrix");
}

PackedMatrix pack_matrix(ThreadPool& pool, int64_t K, int64_t N, MatrixView B, float* out,
                         Precision precision) {
  HARMONIC_ASSERT(K >= 0 && N >= 0 && (precision == Precision::f32 || multiplies_in_bf16()));
  pack(pool, of_matrix(K, N, B, precision), out);
  return {out, K, N, DType::f32, precision == Precision::bf16};
}

PackedMatrix pack_narrow_matrix(ThreadPool& pool, int64_t K, int64_t N, MatrixView B, DType dtype,
                                const float* scales, void* out) {
  HARMONIC_ASSERT(K >= 0 && N >= 0 && (dtype == DType::bf16 || dtype == DType::i8));
  const PackedMatrix packed = {out, K, N, dtype};
  const float* padded = nullptr;
  if (dtype == DType::i8) {
    float* own = const_cast<float*>(scales_of(packed));
    std::fill(std::copy(scales, scales + N, own), own + panels_of(N) * kPanel, 0.0f);
    padded = own;
  }
  const Product product = of_matrix(K, N, B);
  for_panels(pool, product, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(PackNarrowPanels)(product, begin, end, dtype, padded, out);
  });
  return packed;
}

void round_rows(ThreadPool& pool, int64_t rows, int64_t cols, int64_t stride, DType dtype, float* data,
                float* scales) {
  HARMONIC_ASSERT(dtype == DType::bf16 || dtype == DType::i8);
  const int64_t grain = std::max<int64_t>(1, kPackGrain / std::max<int64_t>(1, cols));
  pool.parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (dtype == DType::bf16) {
        HWY_DYNAMIC_DISPATCH(RoundRowToBf16)(cols, data + r * stride);
      } else {
        scales[r] = HWY_DYNAMIC_DISPATCH(RoundRowToInt8)(cols, data + r * stride);
      }
    }
  });
}

void matmul_packed(ThreadPool& pool, Arena& scratch, int64_t M, MatrixView A, const PackedMatrix& B, float* C,
                   int64_t ldc, MatmulMode mode, const float* bias, Precision precision) {
  check(M, B.N, B.K, ldc, mode, bias, precision);
  if (M == 0 || B.N == 0) return;
  Product product = product_of(M, B.N, B.K, A, {}, C, ldc, mode, bias, precision);
  product.packed = B;
  HARMONIC_ASSERT(product.in_bf16 || !B.in_pairs);
  if (M <= kFewRows && !product.in_bf16) return run_few_rows(pool, scratch, product);
  run_tiles(pool, scratch, product, grid_for_packed(M, B.N, pool.threads()));
}

void matmul(ThreadPool& pool, Arena& scratch, int64_t M, int64_t N, int64_t K, MatrixView A, MatrixView B,
            float* C, int64_t ldc, MatmulMode mode, const float* bias, Precision precision) {
  check(M, N, K, ldc, mode, bias, precision);
  if (M == 0 || N == 0) return;
  const Product whole = product_of(M, N, K, A, B, C, ldc, mode, bias, precision);

  // With few tiles of rows each thread packs what it needs of B, which never leaves its cache. With many, B
  // is packed once for all: a block of it at a time, over k in order, so that the copy stays small.
  const Grid own = grid_for(M, N, pool.threads(), kOwnPanels);
  if (own.rows <= (B.col_stride == 1 ? 4 : 2)) return run_tiles(pool, scratch, whole, own);

  const int64_t columns =
      std::min(N, round_up(kSharedFloats / std::clamp<int64_t>(K, 1, kSharedDepth), kPanel));
  const int64_t depth =
      K <= kSharedDepth
          ? std::max<int64_t>(1, K)
          : std::max(kSharedDepth, kSharedFloats / round_up(columns, kPanel) / kBlockK * kBlockK);
  const ArenaScope scope(scratch);
  float* packed =
      scratch.allocate_array<float>(packed_size(ceil_div(std::min(depth, K), step_of(whole)), columns));
  for (int64_t n = 0; n < N; n += columns) {
    for (int64_t k = 0; k == 0 || k < K; k += depth) {
      Product part = whole;
      part.N = std::min(columns, N - n);
      part.K = std::min(depth, K - k);
      part.A.data += k * A.col_stride;
      part.B.data += k * B.row_stride + n * B.col_stride;
      part.C += n;
      part.from_c = whole.from_c || k > 0;
      part.bias = bias ? bias + n : nullptr;
      pack(pool, part, packed);
      part.packed = {packed, part.K, part.N, DType::f32, whole.in_bf16};
      run_tiles(pool, scratch, part, grid_for(M, part.N, pool.threads(), panels_of(part.N)));
    }
  }
}

}  // namespace harmonic
#endif  // HWY_ONCE
