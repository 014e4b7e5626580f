#include "harmonic/ops/some_rows_cuda.h"

#include "harmonic/base/checked.h"
#include "harmonic/ops/cuda_tile_products.h"
#include "harmonic/ops/packed_rows.h"

// A block has a tile of the result, for which it keeps all numbers of its rows of x and of the weight,
// rounded to bf16, in shared memory. The weight's are on their way there while what x is made of is computed.
namespace harmonic::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 32, kColumns = 64;               // of a tile: its warps have 16 by 16 each
constexpr int kWidth = 64;                             // numbers of a row that lie together
constexpr int64_t kMostRows = 512, kMostInputs = 512;  // such that a block's shared memory holds them
constexpr int kTogether = 4;                           // parts of x whose loads go together
constexpr int kPiece = 8;                              // numbers of a copy

using SharedTile = SharedRows<uint16_t, kWidth>;

// x as it comes: f32 numbers, or bf16.
struct Inputs {
  const float* numbers;
  const uint16_t* halves;
  int64_t stride, rows, columns;
  bool aligned;  // whether four numbers can be read at once

  __device__ float at(int64_t row, int64_t column) const {
    if (row >= rows || column >= columns) return 0;
    const int64_t place = row * stride + column;
    return halves ? float_of_bf16(halves[place]) : numbers[place];
  }
  // Four of each of so many rows, rounded, and of so many parts; 0 where there is none.
  template <int kParts, int kCount>
  __device__ void load(FourHalves (&to)[kParts][kCount], int64_t row, int64_t column) const {
    if (aligned && row + kCount <= rows && column + (kParts - 1) * kWidth + 4 <= columns) {
      if (halves) return load_together(to, halves + row * stride + column);
      return load_together(to, numbers + row * stride + column);
    }
    for (int p = 0; p < kParts; ++p)
      for (int i = 0; i < kCount; ++i) {
        const int64_t r = row + i, c = column + p * kWidth;
        to[p][i] = Bf16Products::four({at(r, c), at(r, c + 1), at(r, c + 2), at(r, c + 3)});
      }
  }

 private:
  template <int kParts, int kCount>
  __device__ void load_together(FourHalves (&to)[kParts][kCount], const float* from) const {
    Pack<float> packs[kParts][kCount];
#pragma unroll
    for (int p = 0; p < kParts; ++p)
#pragma unroll
      for (int i = 0; i < kCount; ++i) packs[p][i] = pack_at(from + i * stride + p * kWidth);
#pragma unroll
    for (int p = 0; p < kParts; ++p)
#pragma unroll
      for (int i = 0; i < kCount; ++i) to[p][i] = Bf16Products::four(packs[p][i].numbers);
  }
  template <int kParts, int kCount>
  __device__ void load_together(FourHalves (&to)[kParts][kCount], const uint16_t* from) const {
#pragma unroll
    for (int p = 0; p < kParts; ++p)
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        to[p][i] = *reinterpret_cast<const FourHalves*>(from + i * stride + p * kWidth);
  }
};

Inputs inputs_of(const Tensor& x) {
  const bool narrow = x.dtype == DType::bf16;
  const OperandRows rows = operand_rows_of(x);
  const auto address = reinterpret_cast<uintptr_t>(x.data);
  return {rows.numbers, rows.halves, x.stride,
          x.rows,       x.cols,      address % (narrow ? 8 : 16) == 0 && x.stride % 4 == 0};
}

int64_t shared_bytes(int64_t inputs) {
  return ceil_div(inputs, kWidth) * SharedTile::bytes(kRows + kColumns);
}

}  // namespace

bool has_some_rows(const Linear& op) {
  constexpr int64_t kSmall = 1 << 19;
  return precision() == Precision::bf16 && op.packed && op.packed.dtype == DType::bf16 && op.x.rows > 8 &&
         op.x.rows <= kMostRows && op.x.cols > 0 && shared_bytes(op.x.cols) <= most_shared_bytes() &&
         op.x.cols <= kMostInputs && op.x.cols * op.y.cols <= kSmall;
}

void multiply_some_rows(const Linear& op) {
  const int64_t inputs = op.x.cols, outputs = op.y.cols;
  const PackedRows weight = packed_rows_of(op.packed, outputs, inputs);
  const Inputs x = inputs_of(op.x);
  const Rows base = rows_of(op.base), bias = rows_of(op.bias), y = rows_of(op.y);
  const float sign = op.negate ? -1.0f : 1.0f;
  const int64_t across = ceil_div(outputs, kColumns);
  const auto parts = static_cast<int>(ceil_div(inputs, kWidth));  // of a row, kWidth numbers each
  // Of x, part by part; then of the weight.
  const auto of_x = [=] __device__(int part) {
    return SharedTile{dynamic_shared<uint16_t>() + part * kRows * SharedTile::kStride};
  };
  const auto of_weight = [=] __device__(int part) {
    return SharedTile{dynamic_shared<uint16_t>() + (parts * kRows + part * kColumns) * SharedTile::kStride};
  };
  // Beyond the weight's rows nothing is written, and what lies there is in no result; beyond their ends,
  // zeros.
  const auto stage = [=] __device__() {
    const int64_t first = blockIdx.x % across * kColumns;
    const int pieces = parts * kWidth / kPiece;
    for (int i = static_cast<int>(threadIdx.x); i < kColumns * pieces; i += kThreads) {
      const int row = i / pieces, piece = i % pieces;
      if (first + row >= outputs) break;
      uint16_t* to = of_weight(piece * kPiece / kWidth)[row] + piece * kPiece % kWidth;
      if (2 * piece * kPiece < weight.stride) {
        begin_copy(to, weight.data + (first + row) * weight.stride + 2 * piece * kPiece);
      } else {
        pack_at(to) = Pack<uint16_t>{};
      }
    }
  };
  launch_early<kThreads>(
      {across * ceil_div(op.x.rows, kRows)}, shared_bytes(inputs), stage, [=] __device__() {
        const int64_t first = blockIdx.x % across * kColumns, first_row = blockIdx.x / across * kRows;
        // A warp has some rows of x, of each part half of its lanes two of them at a time. All that there is
        // of a part is asked for before any of it is used.
        const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = lane_index();
        constexpr int kOwn = kRows / (2 * kThreads / kWarpSize);
        const int column = lane % 16 * 4, own_row = warp * 2 * kOwn + lane / 16 * kOwn;
        for (int part = 0; part < parts; part += kTogether) {
          FourHalves four[kTogether][kOwn];
          x.load(four, first_row + own_row, part * kWidth + column);
#pragma unroll
          for (int p = 0; p < kTogether; ++p)
#pragma unroll
            for (int i = 0; i < kOwn; ++i)
              if (part + p < parts)
                *reinterpret_cast<FourHalves*>(of_x(part + p)[own_row + i] + column) = four[p][i];
        }
        finish_copies();
        __syncthreads();
        const int down = warp % 2 * 16, right = warp / 2 * 16;
        Sums<1, 2> sums;
        sums.clear();
        for (int part = 0; part < parts; ++part)
          Bf16Products::add_rows_by_rows(sums, of_x(part).from_row(down), of_weight(part).from_row(right));
        sums.for_each([&](int row, int block, int place, float sum) {
          const int64_t r = first_row + down + row_in_warp(row);
          const int64_t c = first + right + Bf16Products::score_column(block, place);
          if (r < x.rows && c < outputs)
            y[r][c] = (base ? base[r][c] : 0) + (bias ? bias[0][c] : 0) + sign * sum;
        });
      });
}

// A warp for each number.
void multiply_last_columns(const Linear& op, int64_t first) {
  const int64_t inputs = op.x.cols, count = op.y.cols - first;
  const PackedRows weight = packed_rows_of(op.packed, op.y.cols, inputs);
  const Inputs x = inputs_of(op.x);
  const Rows base = rows_of(op.base), bias = rows_of(op.bias), y = rows_of(op.y);
  const float sign = op.negate ? -1.0f : 1.0f;
  for_each_row(op.x.rows * count, [=] __device__(int64_t i, int lane) {
    const int64_t r = quotient(i, count), c = first + i - r * count;
    const auto* halves = reinterpret_cast<const uint16_t*>(weight.data + c * weight.stride);
    float sum = 0;
#pragma unroll 8
    for (int64_t k = lane; k < inputs; k += kWarpSize)
      sum = fmaf(float_of_bf16(bf16_of(x.at(r, k))), float_of_bf16(halves[k]), sum);
    sum = warp_sum(sum);
    if (lane == 0) y[r][c] = (base ? base[r][c] : 0) + (bias ? bias[0][c] : 0) + sign * sum;
  });
}

}  // namespace harmonic::cuda
