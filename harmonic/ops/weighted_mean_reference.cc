#include "harmonic/ops/reference.h"
#include "harmonic/ops/weighted_mean.h"

namespace harmonic::reference {

void run(Context&, const WeightedMean& op) {
  const int64_t D = op.y.cols / op.heads;
  for (int64_t r = 0; r < op.y.rows; ++r)
    for (int64_t h = 0; h < op.heads; ++h) {
      const double* x = op.x.row<double>(r) + h * (D + 1);
      for (int64_t i = 0; i < D; ++i) op.y.row<double>(r)[h * D + i] = x[i] / (x[D] + kWeightEpsilon);
    }
}

void run(Context&, const WeightedMeanBackward& op) {
  const int64_t D = op.y.cols / op.heads;
  for (int64_t r = 0; r < op.y.rows; ++r)
    for (int64_t h = 0; h < op.heads; ++h) {
      const double weight = op.x.row<double>(r)[h * (D + 1) + D] + kWeightEpsilon;
      double* dx = op.dx.row<double>(r) + h * (D + 1);
      dx[D] = 0;
      for (int64_t i = 0; i < D; ++i) {
        dx[i] = op.dy.row<double>(r)[h * D + i] / weight;
        dx[D] -= dx[i] * op.y.row<double>(r)[h * D + i];
      }
    }
}

}  // namespace harmonic::reference
