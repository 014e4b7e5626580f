#include "harmonic/ops/linear_cross_entropy.h"

#include <algorithm>

#include "harmonic/ops/reference.h"

namespace harmonic::reference {

void run(Context&, const LinearCrossEntropy& op) {
  const int64_t vocabulary = op.weight.rows, channels = op.x.cols;
  std::vector<double> logits(static_cast<size_t>(vocabulary));
  for (int64_t r = 0; r < op.x.rows; ++r) {
    for (int64_t c = 0; op.dx && c < channels; ++c) op.dx.row<double>(r)[c] = 0;
    const int32_t target = op.targets.as<int32_t>()[r];
    op.losses.as<double>()[r] = 0;
    if (target < 0) continue;
    for (int64_t v = 0; v < vocabulary; ++v) {
      double sum = 0;
      for (int64_t c = 0; c < channels; ++c) sum += op.x.row<double>(r)[c] * op.weight.row<double>(v)[c];
      logits[static_cast<size_t>(v)] = sum;
    }
    const double most = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (double logit : logits) total += std::exp(logit - most);
    op.losses.as<double>()[r] = most + std::log(total) - logits[static_cast<size_t>(target)];
    if (!op.dx) continue;
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double probability = std::exp(logits[static_cast<size_t>(v)] - most) / total;
      const double d = op.loss_scale * (probability - (v == target ? 1 : 0));
      for (int64_t c = 0; c < channels; ++c) {
        op.dx.row<double>(r)[c] += d * op.weight.row<double>(v)[c];
        if (op.dweight) op.dweight.row<double>(v)[c] += d * op.x.row<double>(r)[c];
      }
    }
  }
}

}  // namespace harmonic::reference
