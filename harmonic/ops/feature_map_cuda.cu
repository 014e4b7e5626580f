#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/feature_map.h"

namespace harmonic::cuda {

// The products of each head, then the softmax of a head's numbers and their opposites by a warp.
void run(Context& context, const FeatureMap& op) {
  const int64_t heads = op.heads, D = op.x.cols / heads, half = op.weight.cols;
  const Tensor maps = scratch_tensor(context, op.x.rows, heads * half);
  for (int64_t h = 0; h < heads; ++h)
    multiply(context, {.a = op.x.columns(h * D, D),
                       .b = op.weight.rows_of(h * D, D),
                       .result = maps.columns(h * half, half)});
  const Rows mapped = rows_of(maps), y = rows_of(op.y);
  for_each_row(op.x.rows * heads, [=] __device__(int64_t i, int lane) {
    const int64_t r = i / heads, h = i % heads;
    const float* u = mapped[r] + h * half;
    float* to = y[r] + h * 2 * half;
    float most = 0, sum = 0;
    for (int64_t f = lane; f < half; f += kWarpSize) most = fmaxf(most, fabsf(u[f]));
    most = warp_max(most);
    for (int64_t f = lane; f < half; f += kWarpSize) sum += expf(u[f] - most) + expf(-u[f] - most);
    sum = warp_sum(sum);
    for (int64_t f = lane; f < half; f += kWarpSize) {
      to[f] = expf(u[f] - most) / sum;
      to[half + f] = expf(-u[f] - most) / sum;
    }
  });
}

void run(Context& context, const FeatureMapBackward& op) {
  const int64_t heads = op.heads, D = op.x.cols / heads, half = op.weight.cols;
  const Tensor maps = scratch_tensor(context, op.x.rows, heads * half);
  const Rows du = rows_of(maps), y = rows_of(op.y), dy = rows_of(op.dy);
  for_each_row(op.x.rows * heads, [=] __device__(int64_t i, int lane) {
    const int64_t r = i / heads, h = i % heads;
    const float *p = y[r] + h * 2 * half, *dp = dy[r] + h * 2 * half;
    float shared = 0;
    for (int64_t f = lane; f < 2 * half; f += kWarpSize) shared += p[f] * dp[f];
    shared = warp_sum(shared);
    for (int64_t f = lane; f < half; f += kWarpSize)
      du[r][h * half + f] = p[f] * (dp[f] - shared) - p[half + f] * (dp[half + f] - shared);
  });
  for (int64_t h = 0; h < heads; ++h) {
    const Tensor d = maps.columns(h * half, half), weight = op.weight.rows_of(h * D, D);
    if (op.dx) {
      const Tensor to = op.dx.to.columns(h * D, D);
      multiply(context,
               {.a = d, .b = weight, .result = to, .b_transposed = true, .base = op.dx.add ? to : Tensor{}});
    }
    const Tensor to = op.dweight.rows_of(h * D, D);
    multiply(context, {.a = op.x.columns(h * D, D), .b = d, .result = to, .a_transposed = true, .base = to});
  }
}

}  // namespace harmonic::cuda
