#include <cmath>

#include "harmonic/ops/reference.h"
#include "harmonic/ops/rotary.h"

namespace harmonic::reference {

void run(Context&, const RotaryTable& op) {
  const int64_t half = op.y.cols / 2;
  for (int64_t b = 0; b < op.segments.count; ++b)
    for (int64_t t = 0; t < op.segments.length(b); ++t)
      for (int64_t i = 0; i < half; ++i) {
        const auto position = static_cast<double>(op.positions[b] + t);
        double angle = position * op.frequencies[i];
        if (op.context > 0 && op.positions[b] + t >= op.context)
          angle *= std::pow(op.growth * (position + 1) / static_cast<double>(op.context) - (op.growth - 1),
                            -2.0 * static_cast<double>(i) / static_cast<double>(2 * half - 2));
        double* row = op.y.row<double>(op.segments.begin(b) + t);
        row[i] = op.scale * std::cos(angle);
        row[half + i] = op.scale * std::sin(angle);
      }
}

void run(Context&, const Rotate& op) {
  const int64_t D = op.table.cols, half = D / 2;
  for (int64_t r = 0; r < op.x.rows; ++r)
    for (int64_t head = 0; head < op.x.cols / D; ++head)
      for (int64_t i = 0; i < half; ++i) {
        const double* x = op.x.row<double>(r) + head * D;
        double* y = op.y.row<double>(r) + head * D;
        const double cosine = op.table.row<double>(r)[i];
        const double sine = (op.inverse ? -1 : 1) * op.table.row<double>(r)[half + i];
        const double a = x[i], b = x[half + i];
        y[i] = a * cosine - b * sine;
        y[half + i] = b * cosine + a * sine;
      }
}

}  // namespace harmonic::reference
