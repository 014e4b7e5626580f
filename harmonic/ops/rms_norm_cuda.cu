#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/rms_norm.h"

namespace harmonic::cuda {
namespace {

// By all lanes of a warp.
__device__ float inverse_root_mean_square(const float* x, int64_t columns, float epsilon, int lane) {
  float squares = 0;
  for (int64_t c = lane; c < columns; c += kWarpSize) squares += x[c] * x[c];
  return 1 / sqrtf(warp_sum(squares) / static_cast<float>(columns) + epsilon);
}

}  // namespace

void run(Context&, const RmsNorm& op) {
  const Rows x = rows_of(op.x), weight = rows_of(op.weight), gain = rows_of(op.gain), y = rows_of(op.y);
  const int64_t columns = op.x.cols;
  const auto epsilon = static_cast<float>(op.epsilon);
  for_each_row(op.x.rows, [=] __device__(int64_t r, int lane) {
    const float scale = inverse_root_mean_square(x[r], columns, epsilon, lane);
    for (int64_t c = lane; c < columns; c += kWarpSize)
      y[r][c] = x[r][c] * scale * weight[0][c] * (gain ? gain[0][c] : 1);
  });
}

// With n = x * scale: dx = scale (dn - n mean(dn n)), where dn = dy weight gain.
void run(Context& context, const RmsNormBackward& op) {
  const Rows x = rows_of(op.x), weight = rows_of(op.weight), gain = rows_of(op.gain), dy = rows_of(op.dy);
  const Rows dweight = rows_of(op.dweight), dgain = rows_of(op.dgain);
  const GradientRows dx = rows_of(op.dx);
  const int64_t columns = op.x.cols;
  const auto epsilon = static_cast<float>(op.epsilon);
  float* scales = scratch_floats(context, op.x.rows);
  for_each_row(op.x.rows, [=] __device__(int64_t r, int lane) {
    const float scale = inverse_root_mean_square(x[r], columns, epsilon, lane);
    if (lane == 0) scales[r] = scale;
    float along = 0;
    for (int64_t c = lane; c < columns; c += kWarpSize)
      along += dy[r][c] * weight[0][c] * (gain ? gain[0][c] : 1) * x[r][c] * scale;
    along = warp_sum(along) / static_cast<float>(columns);
    for (int64_t c = lane; c < columns; c += kWarpSize)
      dx.put(r, c, scale * (dy[r][c] * weight[0][c] * (gain ? gain[0][c] : 1) - x[r][c] * scale * along));
  });
  sum_columns(
      context, op.x.rows, columns,
      [=] __device__(int64_t r, int64_t c) { return dy[r][c] * x[r][c] * scales[r]; },
      [=] __device__(int64_t c, float sum) {
        dweight[0][c] += sum * (gain ? gain[0][c] : 1);
        if (dgain) dgain[0][c] += sum * weight[0][c];
      });
}

}  // namespace harmonic::cuda
