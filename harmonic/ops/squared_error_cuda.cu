#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/squared_error.h"

namespace harmonic::cuda {

void run(Context&, const SquaredError& op) {
  const Rows x = rows_of(op.x), target = rows_of(op.target), losses = rows_of(op.losses), dx = rows_of(op.dx);
  const int64_t columns = op.x.cols;
  const auto scale = static_cast<float>(op.scale), slope = static_cast<float>(2 * op.loss_scale * op.scale);
  for_each_row(op.x.rows, [=] __device__(int64_t r, int lane) {
    float squares = 0;
    for (int64_t c = lane; c < columns; c += kWarpSize) {
      const float difference = x[r][c] - target[r][c];
      squares += difference * difference;
      if (dx) dx[r][c] = slope * difference;
    }
    squares = warp_sum(squares);
    if (lane == 0) losses[0][r] += scale * squares;
  });
}

}  // namespace harmonic::cuda
