#include "harmonic/ops/linear.h"
#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const Linear& op) {
  for (int64_t r = 0; r < op.y.rows; ++r) {
    for (int64_t m = 0; m < op.y.cols; ++m) {
      double sum = number_or_zero(op.base, r, m) + number_or_zero(op.bias, 0, m);
      for (int64_t k = 0; k < op.x.cols; ++k) {
        const double product = op.x.row<double>(r)[k] * op.weight.row<double>(m)[k];
        sum += op.negate ? -product : product;
      }
      op.y.row<double>(r)[m] = sum;
    }
  }
}

void run(Context&, const LinearBackward& op) {
  const double sign = op.negate ? -1 : 1;
  for (int64_t r = 0; op.dx && r < op.x.rows; ++r) {
    for (int64_t k = 0; k < op.x.cols; ++k) {
      double sum = 0;
      for (int64_t m = 0; m < op.dy.cols; ++m)
        sum += sign * op.dy.row<double>(r)[m] * op.weight.row<double>(m)[k];
      put(op.dx, r, k, sum);
    }
  }
  for (int64_t r = 0; r < op.x.rows; ++r) {
    for (int64_t m = 0; m < op.dy.cols; ++m) {
      const double dy = op.dy.row<double>(r)[m];
      if (op.dbias) op.dbias.as<double>()[m] += dy;
      for (int64_t k = 0; op.dweight && k < op.x.cols; ++k)
        op.dweight.row<double>(m)[k] += sign * dy * op.x.row<double>(r)[k];
    }
  }
}

void run(Context&, const PackWeight& op) {
  for (int64_t m = 0; m < op.weight.rows; ++m)
    for (int64_t k = 0; k < op.weight.cols; ++k)
      op.packed.as<double>()[m * op.weight.cols + k] = op.weight.row<double>(m)[k];
}

}  // namespace harmonic::reference
