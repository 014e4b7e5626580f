#include "harmonic/ops/cuda_card.h"
#include "harmonic/ops/few_rows_cuda.h"
#include "harmonic/ops/packed_weight_cuda.h"
#include "harmonic/ops/some_rows_cuda.h"

namespace harmonic::cuda {
namespace {

// A packed weight is unpacked by and by: as many numbers at once.
constexpr int64_t kUnpackedAtOnce = 1 << 25;

// cuBLASLt has fast kernels for results of so many columns and multiples of them: a head of 50,257 tokens
// took four times as long as one of 50,256.
constexpr int64_t kColumnsTogether = 8;

// Columns of the product, that is rows of the weight.
void multiply_columns(Context& context, const Linear& op, const Tensor& weight, int64_t first) {
  const auto columns = [&](const Tensor& tensor) {
    return tensor ? tensor.columns(first, weight.rows) : Tensor{};
  };
  multiply(context, {.a = op.x,
                     .b = weight,
                     .result = columns(op.y),
                     .b_transposed = true,
                     .factor = op.negate ? -1.0f : 1.0f,
                     .base = columns(op.base),
                     .bias = columns(op.bias)});
}

}  // namespace

void run(Context& context, const Linear& op) {
  if (op.y.size() == 0) return;  // a slow level at rest: nothing of the weight is read
  if (has_few_rows(op)) return multiply_few_rows(op);
  if (has_some_rows(op)) return multiply_some_rows(op);
  if (!op.packed) return multiply_columns(context, op, op.weight, 0);
  const int64_t m = op.y.cols, k = op.x.cols;
  const bool is_read = precision() == Precision::bf16 && op.packed.dtype == DType::bf16;
  if (const int64_t even = m / kColumnsTogether * kColumnsTogether; is_read && even < m) {
    multiply_columns(context, op, unpacked(context, op.packed, m, k, 0, even), 0);
    return multiply_last_columns(op, even);
  }
  const int64_t at_once = is_read ? m : std::max<int64_t>(1, kUnpackedAtOnce / std::max<int64_t>(1, k));
  for (int64_t first = 0; first < m; first += at_once) {
    const ArenaScope scope(context.scratch);
    const int64_t count = std::min(at_once, m - first);
    multiply_columns(context, op, unpacked(context, op.packed, m, k, first, count), first);
  }
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

// The weight is rounded in place, and what it is rounded to is written beside it.
void pack(const PackWeight& op) {
  const Rows weight = rows_of(op.weight);
  const int64_t columns = op.weight.cols;
  const PackedRows packed = packed_rows_of(op.packed, op.weight.rows, columns);
  if (op.format == DType::bf16) {
    const int64_t width = packed.stride / 2;
    for_each_element(op.weight.rows, width, [=] __device__(int64_t r, int64_t c) {
      const uint16_t half = c < columns ? bf16_of(weight[r][c]) : uint16_t{0};
      reinterpret_cast<uint16_t*>(packed.data)[r * width + c] = half;
      if (c < columns) weight[r][c] = float_of_bf16(half);
    });
    return;
  }
  for_each_row(op.weight.rows, [=] __device__(int64_t r, int lane) {
    float largest = 0, strange = 0;
    for (int64_t c = lane; c < columns; c += kWarpSize) {
      largest = fmaxf(largest, fabsf(weight[r][c]));
      if (!(fabsf(weight[r][c]) < INFINITY)) strange = 1;
    }
    largest = warp_max(largest);
    strange = warp_max(strange);
    const float scale = strange > 0 ? NAN : largest < 0x1p-100f ? 0 : largest / 127.0f;
    for (int64_t c = lane; c < packed.stride; c += kWarpSize) {
      const float q = c < columns && scale > 0 ? rintf(weight[r][c] / scale) : 0;
      packed.data[r * packed.stride + c] = static_cast<uint8_t>(static_cast<int>(q) + kPackedZero);
      if (c < columns) weight[r][c] = q * scale;
    }
    if (lane == 0) packed.scales[r] = scale;
  });
}

}  // namespace

// Products may read the packed form while the kernels before them are at work: it is written when this
// returns.
void run(Context&, const PackWeight& op) {
  if (op.format == DType::f32) return;
  pack(op);
  synchronize();
}

}  // namespace harmonic::cuda
