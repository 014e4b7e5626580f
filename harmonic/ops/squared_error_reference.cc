#include "harmonic/ops/reference.h"
#include "harmonic/ops/squared_error.h"

namespace harmonic::reference {

void run(Context&, const SquaredError& op) {
  for (int64_t r = 0; r < op.x.rows; ++r)
    for (int64_t c = 0; c < op.x.cols; ++c) {
      const double difference = op.x.row<double>(r)[c] - op.target.row<double>(r)[c];
      op.losses.as<double>()[r] += op.scale * difference * difference;
      if (op.dx) op.dx.row<double>(r)[c] = 2 * op.loss_scale * op.scale * difference;
    }
}

}  // namespace harmonic::reference
