#include "harmonic/ops/cuda_rounding.h"
#include "harmonic/ops/linear.h"

namespace harmonic::cuda {

void run(Context& context, const Linear& op) {
  multiply(context, {.a = op.x,
                     .b = op.weight,
                     .result = op.y,
                     .b_transposed = true,
                     .factor = op.negate ? -1.0f : 1.0f,
                     .base = op.base,
                     .bias = op.bias});
}

void run(Context& context, const LinearBackward& op) {
  const float sign = op.negate ? -1.0f : 1.0f;
  const bool rounds = precision() == Precision::bf16 && (op.dx || op.dweight);
  const Tensor dy_of_products = rounds ? rounded_to_bf16(context, op.dy) : op.dy;
  if (op.dx)
    multiply(context, {.a = dy_of_products,
                       .b = op.weight,
                       .result = op.dx.to,
                       .factor = sign,
                       .base = op.dx.add ? op.dx.to : Tensor{}});
  if (op.dweight)
    multiply(context, {.a = dy_of_products,
                       .b = op.x,
                       .result = op.dweight,
                       .a_transposed = true,
                       .factor = sign,
                       .base = op.dweight});
  if (!op.dbias) return;
  const Rows dy = rows_of(op.dy), dbias = rows_of(op.dbias);
  sum_columns(
      context, op.dy.rows, op.dy.cols, [=] __device__(int64_t r, int64_t c) { return dy[r][c]; },
      [=] __device__(int64_t c, float sum) { dbias[0][c] += sum; });
}

namespace {

__device__ float nearest_bf16(float value) { return float_of_bf16(bf16_of(value)); }

}  // namespace

// The weight is rounded to what the format holds. There is no packed form: products read the weight itself.
void run(Context&, const PackWeight& op) {
  const Rows weight = rows_of(op.weight);
  const int64_t columns = op.weight.cols;
  if (op.format == DType::bf16) {
    for_each(op.weight.size(), [=] __device__(int64_t i) {
      float& number = weight[i / columns][i % columns];
      number = nearest_bf16(number);
    });
  } else if (op.format == DType::i8) {
    for_each_row(op.weight.rows, [=] __device__(int64_t r, int lane) {
      float largest = 0, strange = 0;
      for (int64_t c = lane; c < columns; c += kWarpSize) {
        largest = fmaxf(largest, fabsf(weight[r][c]));
        if (!(fabsf(weight[r][c]) < INFINITY)) strange = 1;
      }
      largest = warp_max(largest);
      strange = warp_max(strange);
      const float scale = largest / 127.0f;
      for (int64_t c = lane; c < columns; c += kWarpSize) {
        const float number = weight[r][c];
        weight[r][c] = strange > 0 ? NAN : largest < 0x1p-100f ? 0 : rintf(number / scale) * scale;
      }
    });
  }
}

}  // namespace harmonic::cuda
