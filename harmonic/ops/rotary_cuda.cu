#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/rotary.h"

namespace harmonic::cuda {

// In double: an angle of a far position has no fraction left in single precision.
void run(Context&, const RotaryTable& op) {
  const Rows y = rows_of(op.y);
  const SegmentRows segments = staged(op.segments);
  const int64_t* positions = staged(op.positions, op.segments.count);
  const int64_t half = op.y.cols / 2, context = op.context;
  const double* frequencies = staged(op.frequencies, half);
  const double scale = op.scale, growth = op.growth;
  for_each(op.y.rows * half, [=] __device__(int64_t i) {
    const int64_t r = i / half, k = i % half, b = segments.of(r);
    const int64_t position = positions[b] + r - segments.begin(b);
    double angle = static_cast<double>(position) * frequencies[k];
    if (context > 0 && position >= context) {
      const double grown =
          growth * static_cast<double>(position + 1) / static_cast<double>(context) - (growth - 1);
      angle *= pow(grown, -2.0 * static_cast<double>(k) / static_cast<double>(2 * half - 2));
    }
    y[r][k] = static_cast<float>(scale * cos(angle));
    y[r][half + k] = static_cast<float>(scale * sin(angle));
  });
}

void run(Context&, const Rotate& op) {
  const Rows x = rows_of(op.x), y = rows_of(op.y), table = rows_of(op.table);
  const int64_t half = op.table.cols / 2, pairs = op.x.cols / 2;
  const float sign = op.inverse ? -1.0f : 1.0f;
  for_each(op.x.rows * pairs, [=] __device__(int64_t i) {
    const int64_t r = i / pairs, head = i % pairs / half, k = i % pairs % half, c = head * 2 * half + k;
    const float cosine = table[r][k], sine = sign * table[r][half + k];
    const float a = x[r][c], b = x[r][c + half];
    y[r][c] = a * cosine - b * sine;
    y[r][c + half] = b * cosine + a * sine;
  });
}

}  // namespace harmonic::cuda
