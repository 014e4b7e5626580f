// The per-target part of products in bf16 with AMX: a tile of C, 32 rows by two panels at a time, each a tile
// register of 16 x 16 sums, from A by rows and B in panels, both in pairs (matmul_pairs-inl.h), 32 k at a
// time.

#if defined(HARMONIC_OPS_MATMUL_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_AMX_INL_H_
#undef HARMONIC_OPS_MATMUL_AMX_INL_H_
#else
#define HARMONIC_OPS_MATMUL_AMX_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "harmonic/ops/amx-inl.h"
#include "harmonic/ops/matmul_copies-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3
static_assert(kTile == kPanel && kBlockK % kTile == 0 && kRowStride >= kBlockK);  // TileAFloats

// 16 x 16 numbers, turned round.
HWY_INLINE void Transpose16x16(__m512 (&x)[16]) {
  __m512 t[16], u[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
  }
  const auto two = [](__m512 a, __m512 b, bool upper) HWY_ATTR {
    const __m512d p = _mm512_castps_pd(a), q = _mm512_castps_pd(b);
    return _mm512_castpd_ps(upper ? _mm512_unpackhi_pd(p, q) : _mm512_unpacklo_pd(p, q));
  };
  // u[4 i + j] has in its 128 bits number L: column 4 L + j of rows 4 i to 4 i + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    u[i] = two(t[i], t[i + 2], false);
    u[i + 1] = two(t[i], t[i + 2], true);
    u[i + 2] = two(t[i + 1], t[i + 3], false);
    u[i + 3] = two(t[i + 1], t[i + 3], true);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 even = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88),
                 odd = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
    const __m512 even2 = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
    const __m512 odd2 = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    x[j] = _mm512_shuffle_f32x4(even, even2, 0x88);
    x[4 + j] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
    x[8 + j] = _mm512_shuffle_f32x4(even, even2, 0xdd);
    x[12 + j] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
  }
}

// As tiles, of an A whose columns are what lies together.
template <bool kNegate>
void PackColumnsAsTiles(MatrixView A, int64_t rows, int64_t K, float* out) {
  const int64_t row_step = ceil_div(K, 2 * kTile) * kTileFloats;
  const auto load = [&](int64_t k, int64_t r) HWY_ATTR {
    return k < K ? LoadSome<kNegate>(A.data + k * A.col_stride + r, rows - r, 0) : hn::Set(Tag(), kPadOfA);
  };
  for (int64_t k = 0; k < K; k += 2 * kTile, out += kTileFloats) {
    for (int64_t r = 0; r < rows; r += kTile) {
      __m512 pairs[kTile];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kTile; ++i)
        pairs[i] = PairsOfTwoRows(load(k + 2 * i, r), load(k + 2 * i + 1, r)).raw;
      Transpose16x16(pairs);
      float* to = out + r / kTile * row_step;
#pragma GCC unroll 16
      for (int64_t i = 0; i < kTile; ++i) _mm512_storeu_ps(to + i * kTile, pairs[i]);
    }
  }
}

// `rows` rows of A, K columns, as tiles of pairs [row tile][tile of k][16][16], what A does not have being
// zero.
template <bool kNegate>
void PackTiles(MatrixView A, int64_t rows, int64_t K, float* out) {
  if (A.row_stride == 1 && A.col_stride != 1) return PackColumnsAsTiles<kNegate>(A, rows, K, out);
  const int64_t row_step = ceil_div(K, 2 * kTile) * kTileFloats;
  for (int64_t r = 0; r < rows; ++r)
    PackPairRow<kNegate>(A.data + r * A.row_stride, A.col_stride, K, kPadOfA,
                         out + r / kTile * row_step + r % kTile * kTile, kTileFloats);
  for (int64_t r = rows; r % kTile != 0; ++r)
    for (int64_t at = r / kTile * row_step, end = at + row_step; at < end; at += kTileFloats)
      _mm512_storeu_ps(out + at + r % kTile * kTile, _mm512_setzero_ps());
}

// A tile of C: where its sums start from and where they go, each with the bytes from one row to the next; 0
// for one row that stands for all.
struct Sums {
  const float* start;
  int64_t start_step;
  float* c;
  int64_t c_step;
};

// Up to 2 x 2 tiles of C.
struct AmxCall {
  int64_t count;           // tiles of k
  const float* a[2];       // [count] tiles
  const float* b[2];       // likewise
  const float* last_b[2];  // the last of them, perhaps in another place
  Sums sums[2][2];
  const float* next_c;  // what the next call changes: 32 rows, `next_step` floats apart
  int64_t next_step;
};

template <int kRows, int kColumns>
void AmxKernel(const AmxCall& call) {
  constexpr int64_t kLine = kTile * int64_t{sizeof(float)};
  const auto& sums = call.sums;
  LoadTile<0>(sums[0][0].start, sums[0][0].start_step);
  if constexpr (kColumns == 2) LoadTile<1>(sums[0][1].start, sums[0][1].start_step);
  if constexpr (kRows == 2) LoadTile<2>(sums[1][0].start, sums[1][0].start_step);
  if constexpr (kRows == 2 && kColumns == 2) LoadTile<3>(sums[1][1].start, sums[1][1].start_step);
  int64_t asked = 0;
  const auto multiply_add = [&](int64_t i, const float* const* b, int64_t at) {
    LoadTile<6>(b[0] + at, kLine);
    LoadTile<4>(call.a[0] + i * kTileFloats, kLine);
    MultiplyAddTiles<0, 4, 6>();
    if constexpr (kColumns == 2) {
      LoadTile<7>(b[1] + at, kLine);
      MultiplyAddTiles<1, 4, 7>();
    }
    if constexpr (kRows == 2) {
      LoadTile<5>(call.a[1] + i * kTileFloats, kLine);
      MultiplyAddTiles<2, 5, 6>();
      if constexpr (kColumns == 2) MultiplyAddTiles<3, 5, 7>();
    }
    for (const int64_t end = 2 * kTile * (i + 1) / call.count; asked < end; ++asked) {
      const float* row = call.next_c + asked * call.next_step;
      __builtin_prefetch(row, 1);
      __builtin_prefetch(row + kTile, 1);
    }
  };
  for (int64_t i = 0; i + 1 < call.count; ++i) multiply_add(i, call.b, i * kTileFloats);
  if (call.count > 0) multiply_add(call.count - 1, call.last_b, 0);
  StoreTile<0>(sums[0][0].c, sums[0][0].c_step);
  if constexpr (kColumns == 2) StoreTile<1>(sums[0][1].c, sums[0][1].c_step);
  if constexpr (kRows == 2) StoreTile<2>(sums[1][0].c, sums[1][0].c_step);
  if constexpr (kRows == 2 && kColumns == 2) StoreTile<3>(sums[1][1].c, sums[1][1].c_step);
}

HWY_INLINE void RunAmxKernel(int64_t rows, int64_t columns, const AmxCall& call) {
  if (rows == 2) return columns == 2 ? AmxKernel<2, 2>(call) : AmxKernel<2, 1>(call);
  columns == 2 ? AmxKernel<1, 2>(call) : AmxKernel<1, 1>(call);
}

// Two panels of B, as many tiles of k of them as a block has, and their part of the bias.
class PanelsForAmx {
 public:
  // Steps [step, step + count) of panels p and, of two, p + 1; `own` has room for them.
  PanelsForAmx(const Product& product, int64_t p, int64_t panels, int64_t step, int64_t count, float* own) {
    const int64_t steps = ceil_div(product.K, 2), tiles = ceil_div(count, kTile);
    for (int64_t q = 0; q < panels; ++q, own += tiles * kTileFloats) {
      if (is_ready(product)) {
        b[q] = static_cast<const float*>(product.packed.data) + ((p + q) * steps + step) * kPanel;
      } else {
        BringPanel(product, p + q, 2 * step, std::min(2 * count, product.K - 2 * step), own);
        b[q] = own;
      }
      last_b[q] = b[q] + std::max<int64_t>(0, tiles - 1) * kTileFloats;
      if (count % kTile != 0) {  // what follows is something else
        const int64_t there = count % kTile * kPanel;
        std::fill(std::copy_n(last_b[q], there, tail_[q]), tail_[q] + kTileFloats, 0.0f);
        last_b[q] = tail_[q];
      }
      const int64_t column = (p + q) * kPanel, width = std::min(kPanel, product.N - column);
      std::fill(bias[q], bias[q] + kPanel, 0.0f);
      if (product.bias) std::copy_n(product.bias + column, width, bias[q]);
    }
  }

  const float *b[2] = {}, *last_b[2] = {};
  HWY_ALIGN float bias[2][kPanel];

 private:
  HWY_ALIGN float tail_[2][kTileFloats];
};

// Copies `height` rows of `width` floats.
HWY_INLINE void CopyPart(const float* from, int64_t from_step, int64_t height, int64_t width, float* to,
                         int64_t to_step) {
  for (int64_t r = 0; r < height; ++r)
    std::memcpy(to + r * to_step, from + r * from_step, static_cast<size_t>(width) * sizeof(float));
}

// As ComputeTile; a_block has whole tiles of rows, b_block two panels of whole tiles of k.
void ComputeTileWithAmx(const Product& product, const Tile& tile, float* a_block, float* b_block) {
  constexpr int64_t kFloat = sizeof(float);
  const MatrixView& A = product.A;
  const int64_t rows = tile.row_end - tile.row_begin, steps = ceil_div(product.K, 2), ldc = product.ldc;
  HWY_ALIGN float buffers[2][2][kTileFloats];  // for tiles of C that are not whole
  BeginAmx();
  for (int64_t step = 0; step == 0 || step < steps; step += kBlockK) {
    const int64_t count = std::min(kBlockK, steps - step), tiles = ceil_div(count, kTile);
    const bool from_c = product.from_c || step > 0;
    (product.negate ? PackTiles<true>
                    : PackTiles<false>)({A.data + tile.row_begin * A.row_stride + 2 * step * A.col_stride,
                                         A.row_stride, A.col_stride},
                                        rows, std::min(2 * count, product.K - 2 * step), a_block);
    for (int64_t p = tile.panel_begin; p < tile.panel_end; p += 2) {
      const int64_t panels = std::min<int64_t>(2, tile.panel_end - p), column = p * kPanel;
      const PanelsForAmx from_b(product, p, panels, step, count, b_block);
      for (int64_t r = 0; r < rows; r += 2 * kTile) {
        const int64_t row_tiles = rows - r > kTile ? 2 : 1;
        float* c = product.C + (tile.row_begin + r) * ldc + column;
        const auto height = [&](int64_t i) { return std::min(kTile, rows - r - i * kTile); };
        const auto width = [&](int64_t q) { return std::min(kPanel, product.N - column - q * kPanel); };
        AmxCall call = {.count = tiles,
                        .a = {a_block + r * tiles * kTile, a_block + (r + kTile) * tiles * kTile},
                        .b = {from_b.b[0], from_b.b[1]},
                        .last_b = {from_b.last_b[0], from_b.last_b[1]},
                        .sums = {},
                        .next_c = r + 2 * kTile < rows ? c + 2 * kTile * ldc : c - r * ldc + 2 * kPanel,
                        .next_step = ldc};
        for (int64_t i = 0; i < row_tiles; ++i) {
          for (int64_t q = 0; q < panels; ++q) {
            Sums& sums = call.sums[i][q];
            sums.c = c + i * kTile * ldc + q * kPanel;
            sums.c_step = ldc * kFloat;
            if (height(i) < kTile || width(q) < kPanel) {
              if (from_c) CopyPart(sums.c, ldc, height(i), width(q), buffers[i][q], kTile);
              sums.c = buffers[i][q];
              sums.c_step = kTile * kFloat;
            }
            sums.start = from_c ? sums.c : from_b.bias[q];
            sums.start_step = from_c ? sums.c_step : 0;
          }
        }
        RunAmxKernel(row_tiles, panels, call);
        for (int64_t i = 0; i < row_tiles; ++i)
          for (int64_t q = 0; q < panels; ++q)
            if (call.sums[i][q].c == buffers[i][q])
              CopyPart(buffers[i][q], kTile, height(i), width(q), c + i * kTile * ldc + q * kPanel, ldc);
      }
    }
  }
  EndAmx();
}
#else
void ComputeTileWithAmx(const Product&, const Tile&, float*, float*) { HARMONIC_ASSERT(false); }
#endif

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
