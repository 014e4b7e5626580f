#include "harmonic/ops/feature_map.h"

#include <algorithm>
#include <vector>

#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const FeatureMap& op) {
  const int64_t D = op.x.cols / op.heads, half = op.weight.cols;
  std::vector<double> u(static_cast<size_t>(2 * half));
  for (int64_t r = 0; r < op.x.rows; ++r)
    for (int64_t h = 0; h < op.heads; ++h) {
      for (int64_t f = 0; f < half; ++f) {
        double sum = 0;
        for (int64_t i = 0; i < D; ++i)
          sum += op.x.row<double>(r)[h * D + i] * op.weight.row<double>(h * D + i)[f];
        u[static_cast<size_t>(f)] = sum;
        u[static_cast<size_t>(half + f)] = -sum;
      }
      const double largest = *std::max_element(u.begin(), u.end());
      double total = 0;
      for (double& number : u) total += number = std::exp(number - largest);
      for (int64_t f = 0; f < 2 * half; ++f)
        op.y.row<double>(r)[h * 2 * half + f] = u[static_cast<size_t>(f)] / total;
    }
}

void run(Context&, const FeatureMapBackward& op) {
  const int64_t D = op.x.cols / op.heads, half = op.weight.cols;
  for (int64_t r = 0; r < op.x.rows; ++r)
    for (int64_t h = 0; h < op.heads; ++h) {
      const double* y = op.y.row<double>(r) + h * 2 * half;
      const double* dy = op.dy.row<double>(r) + h * 2 * half;
      double shared = 0;
      for (int64_t f = 0; f < 2 * half; ++f) shared += y[f] * dy[f];
      const auto du = [&](int64_t f) {
        return y[f] * (dy[f] - shared) - y[half + f] * (dy[half + f] - shared);
      };
      for (int64_t i = 0; i < D; ++i) {
        double dx = 0;
        for (int64_t f = 0; f < half; ++f) {
          dx += du(f) * op.weight.row<double>(h * D + i)[f];
          op.dweight.row<double>(h * D + i)[f] += du(f) * op.x.row<double>(r)[h * D + i];
        }
        put(op.dx, r, h * D + i, dx);
      }
    }
}

}  // namespace harmonic::reference
