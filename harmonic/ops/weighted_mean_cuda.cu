#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/weighted_mean.h"

namespace harmonic::cuda {

void run(Context&, const WeightedMean& op) {
  const Rows x = rows_of(op.x), y = rows_of(op.y);
  const int64_t columns = op.y.cols, D = columns / op.heads;
  constexpr auto kEpsilon = static_cast<float>(kWeightEpsilon);
  for_each(op.y.size(), [=] __device__(int64_t i) {
    const int64_t r = i / columns, h = i % columns / D, d = i % columns % D;
    y[r][h * D + d] = x[r][h * (D + 1) + d] / (x[r][h * (D + 1) + D] + kEpsilon);
  });
}

void run(Context&, const WeightedMeanBackward& op) {
  const Rows x = rows_of(op.x), y = rows_of(op.y), dy = rows_of(op.dy), dx = rows_of(op.dx);
  const int64_t heads = op.heads, D = op.y.cols / heads;
  constexpr auto kEpsilon = static_cast<float>(kWeightEpsilon);
  for_each_row(op.y.rows * heads, [=] __device__(int64_t i, int lane) {
    const int64_t r = i / heads, h = i % heads;
    const float weight = x[r][h * (D + 1) + D] + kEpsilon;
    float sum = 0;
    for (int64_t d = lane; d < D; d += kWarpSize) {
      const float gradient = dy[r][h * D + d] / weight;
      dx[r][h * (D + 1) + d] = gradient;
      sum += gradient * y[r][h * D + d];
    }
    sum = warp_sum(sum);
    if (lane == 0) dx[r][h * (D + 1) + D] = -sum;
  });
}

}  // namespace harmonic::cuda
