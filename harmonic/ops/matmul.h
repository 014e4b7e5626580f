// The matrix product of the CPU backend: C = A B, C += A B, C -= A B, with one definition of every bit.
//
// An element starts from 0, bias[n] or its old value and then takes one fused multiply-add for each k in
// order:
//   c = start; for k = 0..K-1: c = fma(+-A[m,k], B[k,n], c)
// So its bits do not depend on M, N, where it stands in C, tiles, threads or the vector width: a row computed
// alone equals the row within any batch, and a product over K in two halves, the second accumulating, equals
// one over all.
//
// In bf16 (Precision) every element of A and B is first rounded to bf16, to the nearest and ties to even, as
// it is packed; C and bias stay f32. With AVX-512 BF16 the chain is the same. With AMX (bf16_instructions.h)
// it takes 32 k at a time from 0 on, and the last ones as if zeros followed:
//   upper = lower = 0; for j = 0, 2, ..., 30: upper = fma(a[k+j], b[k+j], upper);
//                                             lower = fma(a[k+j+1], b[k+j+1], lower);
//   c = c + (lower + upper)
// so that a product over K in two parts has the bits of one where the first part is a multiple of 32.
#pragma once

#include <cstdint>

#include "harmonic/base/thread_pool.h"
#include "harmonic/ops/bf16_instructions.h"
#include "harmonic/ops/op.h"
#include "harmonic/tensor/arena.h"

namespace harmonic {

// Element (r, c) lies at data[r * row_stride + c * col_stride], so that a transpose is another view of the
// same memory. Fast when either stride is 1.
struct MatrixView {
  const float* data = nullptr;
  int64_t row_stride = 0, col_stride = 0;

  MatrixView transposed() const { return {data, col_stride, row_stride}; }
};

enum class MatmulMode : uint8_t {
  overwrite,   // start from zero, or from the bias
  accumulate,  // start from the old C; no bias
  subtract,    // start from the old C and take A B away; no bias
};

// C[M,N] from A[M,K] and B[K,N]; row m of C lies at C + m * ldc. Sizes may be 0. `bias`: [N], or null for
// zero; only with overwrite. C must not overlap A, B or bias. Nothing outside the given matrices is touched.
// `scratch` is used for copies (at most 16 MB of B, half a MB a thread, or up to 14 rows of A) and is as
// before on return.
void matmul(ThreadPool& pool, Arena& scratch, int64_t M, int64_t N, int64_t K, MatrixView A, MatrixView B,
            float* C, int64_t ldc, MatmulMode mode = MatmulMode::overwrite, const float* bias = nullptr,
            Precision precision = Precision::f32);

// A matrix B[K,N] packed once for many products, such as a weight while decoding: panels of 16 columns,
// [ceil(N/16)][K][16], the last one padded with zeros. The caller owns the memory. Elements are f32, bf16, or
// i8: whole multiples of a scale of their column, the scales (f32, a panel's 16 together) following the last
// panel. The narrow forms are exact: they hold matrices that were rounded before (round_rows).
//
// Blocks of 32 k of a column, K a multiple of 32, hold what GGUF files do (convert/gguf_blocks.h): q8_0, d q
// with q of i8, and q4_1, d q + m with q of four bits, d and m f16. Of each block of k a panel has 16 d, with
// q4_1 16 m, and then 16 q for each k in order; of four bits, two k share a byte, the first the lower half.
struct PackedMatrix {
  const void* data = nullptr;
  int64_t K = 0, N = 0;
  DType dtype = DType::f32;
  bool in_pairs = false;  // for products in bf16 alone: [ceil(N/16)][ceil(K/2)][16], two k in 32 bits
};

// The number of elements, of i8 with the bytes of the scales, that the packed form of B[K,N] needs; of blocks
// the number of bytes. Throws Error when it overflows.
int64_t packed_size(int64_t K, int64_t N, DType dtype = DType::f32);

// Packs B[K,N] into `out`, packed_size(K, N) elements, best aligned to 64 bytes; for products in bf16 half of
// them suffice: packed_size(ceil(K/2), N).
PackedMatrix pack_matrix(ThreadPool& pool, int64_t K, int64_t N, MatrixView B, float* out,
                         Precision precision = Precision::f32);

// The same as bf16 or i8, of a B whose transpose was rounded by round_rows, which gave `scales`.
PackedMatrix pack_narrow_matrix(ThreadPool& pool, int64_t K, int64_t N, MatrixView B, DType dtype,
                                const float* scales, void* out);

constexpr int64_t kBlockNumbers = 32;
inline bool is_blocks(DType dtype) { return dtype == DType::q8_0 || dtype == DType::q4_1; }

// Packs blocks as they lie in a GGUF file, those of a column of B[K,N] one after the other and column after
// column, into `out`, packed_size(K, N, dtype) bytes. dtype is q8_0 or q4_1.
PackedMatrix pack_blocks(ThreadPool& pool, int64_t K, int64_t N, const uint8_t* blocks, DType dtype,
                         void* out);

// Column n of the matrix, K numbers, to the bit.
void unpack_column(const PackedMatrix& packed, int64_t n, float* out);

// Rounds every row of [rows, cols] numbers to what a narrow form can hold: bf16, to the nearest and ties to
// even; or i8, to the nearest of -127..127 times the row's scale, which is its largest magnitude / 127 (of a
// row below 2^-100 that is taken as 0; of one that is not finite, NaN, and so the row). scales: [rows], with
// i8.
void round_rows(ThreadPool& pool, int64_t rows, int64_t cols, int64_t stride, DType dtype, float* data,
                float* scales);

// As matmul, with the same bits: a narrow form gives those of the f32 matrix that it holds. With few rows it
// runs at the speed at which the packed matrix comes from memory; not so in bf16, which is for training.
void matmul_packed(ThreadPool& pool, Arena& scratch, int64_t M, MatrixView A, const PackedMatrix& B, float* C,
                   int64_t ldc, MatmulMode mode = MatmulMode::overwrite, const float* bias = nullptr,
                   Precision precision = Precision::f32);

}  // namespace harmonic
