#include <algorithm>
#include <cmath>
#include <limits>
#include "harmonic/ops/linear.h"

#include "harmonic/ops/reference.h"

namespace harmonic::reference {
namespace {

// The numbers of a narrow format are single-precision by definition, here too.
void round_row(double* row, int64_t count, DType format) {
  if (format == DType::f32) return;
  if (format == DType::bf16) {
    for (int64_t k = 0; k < count; ++k) row[k] = rounded_to_bf16(row[k]);
    return;
  }
  double largest = 0;
  bool finite = true;
  for (int64_t k = 0; k < count; ++k) {
    largest = std::max(largest, std::abs(row[k]));
    finite = finite && std::isfinite(row[k]);
  }
  const float scale = static_cast<float>(largest) / 127.0f;
  for (int64_t k = 0; k < count; ++k) {
    if (!finite) {
      row[k] = std::numeric_limits<double>::quiet_NaN();
    } else if (largest < 0x1p-100) {
      row[k] = 0;
    } else {
      row[k] = std::nearbyint(static_cast<float>(row[k]) / scale) * scale;
    }
  }
}

}  // namespace

void run(Context& context, const Linear& op) {
  for (int64_t r = 0; r < op.y.rows; ++r) {
    for (int64_t m = 0; m < op.y.cols; ++m) {
      double sum = number_or_zero(op.base, r, m) + number_or_zero(op.bias, 0, m);
      for (int64_t k = 0; k < op.x.cols; ++k) {
        const double product = operand(context, op.x.row<double>(r)[k]) *
                               operand(context, weight_at(op.weight, op.packed, m, k));
        sum += op.negate ? -product : product;
      }
      op.y.row<double>(r)[m] = sum;
    }
  }
}

void run(Context& context, const LinearBackward& op) {
  const double sign = op.negate ? -1 : 1;
  for (int64_t r = 0; op.dx && r < op.x.rows; ++r) {
    for (int64_t k = 0; k < op.x.cols; ++k) {
      double sum = 0;
      for (int64_t m = 0; m < op.dy.cols; ++m)
        sum +=
            sign * operand(context, op.dy.row<double>(r)[m]) * operand(context, op.weight.row<double>(m)[k]);
      put(op.dx, r, k, sum);
    }
  }
  for (int64_t r = 0; r < op.x.rows; ++r) {
    for (int64_t m = 0; m < op.dy.cols; ++m) {
      const double dy = op.dy.row<double>(r)[m];
      if (op.dbias) op.dbias.as<double>()[m] += dy;
      for (int64_t k = 0; op.dweight && k < op.x.cols; ++k)
        op.dweight.row<double>(m)[k] +=
            sign * operand(context, dy) * operand(context, op.x.row<double>(r)[k]);
    }
  }
}

void run(Context&, const PackWeight& op) {
  for (int64_t m = 0; m < op.weight.rows; ++m) round_row(op.weight.row<double>(m), op.weight.cols, op.format);
  for (int64_t m = 0; m < op.weight.rows; ++m)
    for (int64_t k = 0; k < op.weight.cols; ++k)
      op.packed.as<double>()[m * op.weight.cols + k] = op.weight.row<double>(m)[k];
}

}  // namespace harmonic::reference
