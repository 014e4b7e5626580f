#include "harmonic/ops/reference.h"
#include "harmonic/ops/rms_norm.h"

namespace harmonic::reference {
namespace {

double inverse_root_mean_square(const Tensor& x, int64_t r, double epsilon) {
  double squares = 0;
  for (int64_t c = 0; c < x.cols; ++c) squares += x.row<double>(r)[c] * x.row<double>(r)[c];
  return 1 / std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
}

}  // namespace

void run(Context&, const RmsNorm& op) {
  for (int64_t r = 0; r < op.x.rows; ++r) {
    const double scale = inverse_root_mean_square(op.x, r, op.epsilon);
    for (int64_t c = 0; c < op.x.cols; ++c) {
      const double gain = op.gain ? op.gain.as<double>()[c] : 1;
      op.y.row<double>(r)[c] = op.x.row<double>(r)[c] * scale * op.weight.as<double>()[c] * gain;
    }
  }
}

// With n = x * scale: dx = scale (dn - n mean(dn n)), where dn = dy weight gain.
void run(Context&, const RmsNormBackward& op) {
  for (int64_t r = 0; r < op.x.rows; ++r) {
    const double scale = inverse_root_mean_square(op.x, r, op.epsilon);
    const auto gain = [&](int64_t c) { return op.gain ? op.gain.as<double>()[c] : 1.0; };
    double along = 0;
    for (int64_t c = 0; c < op.x.cols; ++c) {
      const double n = op.x.row<double>(r)[c] * scale, dy = op.dy.row<double>(r)[c];
      along += dy * op.weight.as<double>()[c] * gain(c) * n / static_cast<double>(op.x.cols);
      op.dweight.as<double>()[c] += dy * n * gain(c);
      if (op.dgain) op.dgain.as<double>()[c] += dy * n * op.weight.as<double>()[c];
    }
    for (int64_t c = 0; c < op.x.cols; ++c) {
      const double n = op.x.row<double>(r)[c] * scale;
      put(op.dx, r, c, scale * (op.dy.row<double>(r)[c] * op.weight.as<double>()[c] * gain(c) - n * along));
    }
  }
}

}  // namespace harmonic::reference
