#include "harmonic/ops/linear_cross_entropy.h"

#include <algorithm>

#include "harmonic/ops/reference.h"

namespace harmonic::reference {

namespace {

void softmax(std::vector<double>& logits, double& log_sum) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const double logit : logits) total += std::exp(logit - most);
  log_sum = most + std::log(total);
  for (double& logit : logits) logit = std::exp(logit - log_sum);
}

void multiply(const Context& context, const Tensor& x, int64_t row, const Tensor& weight,
              const Tensor& packed, std::vector<double>& logits) {
  logits.assign(static_cast<size_t>(weight.rows), 0);
  for (int64_t v = 0; v < weight.rows; ++v)
    for (int64_t c = 0; c < x.cols; ++c)
      logits[static_cast<size_t>(v)] +=
          operand(context, x.row<double>(row)[c]) * operand(context, weight_at(weight, packed, v, c));
}

}  // namespace

void run(Context& context, const LinearCrossEntropy& op) {
  const int64_t vocabulary = op.weight.rows, channels = op.x.cols;
  std::vector<double> q, p;  // of the model, of the teacher
  for (int64_t r = 0; r < op.x.rows; ++r) {
    for (int64_t c = 0; op.dx && c < channels; ++c) op.dx.row<double>(r)[c] = 0;
    const int32_t target = op.targets.as<int32_t>()[r];
    op.losses.as<double>()[r] = 0;
    if (target < 0) continue;
    multiply(context, op.x, r, op.weight, op.packed, q);
    std::vector<double> logits = q;
    double log_sum = 0, teacher_log_sum = 0, divergence = 0;
    softmax(q, log_sum);
    const double share = op.teacher.x ? op.teacher.share : 0;
    if (op.teacher.x) {
      multiply(context, op.teacher.x, r, op.teacher.weight, {}, p);
      const std::vector<double> teacher_logits = p;
      softmax(p, teacher_log_sum);
      for (size_t v = 0; v < p.size(); ++v)
        divergence += p[v] * (teacher_logits[v] - teacher_log_sum - logits[v] + log_sum);
    } else {
      p.assign(q.size(), 0);
    }
    op.losses.as<double>()[r] =
        (1 - share) * (log_sum - logits[static_cast<size_t>(target)]) + share * divergence;
    if (!op.dx) continue;
    for (int64_t v = 0; v < vocabulary; ++v) {
      const auto i = static_cast<size_t>(v);
      const double d =
          operand(context, op.loss_scale * (q[i] - share * p[i] - (1 - share) * (v == target ? 1 : 0)));
      for (int64_t c = 0; c < channels; ++c) {
        op.dx.row<double>(r)[c] += d * operand(context, op.weight.row<double>(v)[c]);
        if (op.dweight) op.dweight.row<double>(v)[c] += d * operand(context, op.x.row<double>(r)[c]);
      }
    }
  }
}

}  // namespace harmonic::reference
