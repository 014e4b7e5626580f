#include "harmonic/ops/linear_cross_entropy.h"
#include "harmonic/ops/packed_weight_cuda.h"

namespace harmonic::cuda {
namespace {

// Rows whose logits are held at once: a quarter of a GiB of them, by the vocabulary alone, so that a row's
// sums have one order whatever the memory.
int64_t rows_at_once(int64_t vocabulary) {
  constexpr int64_t kLogits = 1 << 26, kGrain = 64;
  return std::max(kGrain, kLogits / vocabulary / kGrain * kGrain);
}

constexpr int kThreads = 128;

// The largest of a row of logits, and the log of the sum of their exponentials: in one pass over them.
struct LogSum {
  float most, log_sum;
};
__device__ LogSum log_sum_of(const float* logits, int64_t count, float* across) {
  float most = -INFINITY, sum = 0;
  for (int64_t v = threadIdx.x; v < count; v += kThreads) {
    const float logit = logits[v], larger = fmaxf(most, logit);
    sum = sum * expf(most - larger) + expf(logit - larger);
    most = larger;
  }
  const float all = block_max(most, across);
  return {all, logf(block_sum(most > -INFINITY ? sum * expf(most - all) : 0, across))};
}

}  // namespace

void run(Context& context, const LinearCrossEntropy& op) {
  const int64_t vocabulary = op.weight.rows, rows = op.x.rows, chunk = rows_at_once(vocabulary);
  const bool teaches = static_cast<bool>(op.teacher.x);
  const auto share = static_cast<float>(teaches ? op.teacher.share : 0);
  const auto loss_scale = static_cast<float>(op.loss_scale);
  const int32_t* targets = staged(op.targets.as<int32_t>(), rows);
  const Rows losses = rows_of(op.losses);
  const int64_t most = std::min(chunk, rows);
  const Tensor held = scratch_tensor(context, most, vocabulary);
  // Where products are of bf16 numbers, the weight is rounded once and the gradients are written so.
  const bool rounds = precision() == Precision::bf16;
  const Tensor weight = op.packed ? unpacked(context, op.packed, vocabulary, op.x.cols)
                        : rounds  ? rounded_to_bf16(context, op.weight)
                                  : op.weight;
  const Tensor narrow = rounds && op.dx ? bf16_scratch(context, most, vocabulary) : Tensor{};
  const Tensor held_of_teacher = teaches ? scratch_tensor(context, most, vocabulary) : Tensor{};
  const bool gradients = static_cast<bool>(op.dx);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    const Tensor logit_rows = held.rows_of(0, count);
    const Tensor teacher_rows = teaches ? held_of_teacher.rows_of(0, count) : Tensor{};
    const Tensor x = op.x.rows_of(first, count);
    multiply(context, {.a = x, .b = weight, .result = logit_rows, .b_transposed = true});
    if (teaches)
      multiply(context, {.a = op.teacher.x.rows_of(first, count),
                         .b = op.teacher.weight,
                         .result = teacher_rows,
                         .b_transposed = true});
    // A block for each row: its loss, then its logits' gradients in place of the logits.
    const Rows logits = rows_of(logit_rows), taught = rows_of(teacher_rows);
    auto* narrow_numbers = static_cast<uint16_t*>(narrow.data);
    const int64_t narrow_stride = narrow.stride;
    launch<kThreads>({count}, kThreads / kWarpSize * 4, [=] __device__() {
      auto* across = dynamic_shared<float>();
      const int64_t r = blockIdx.x;
      float *own = logits[r], *other = taught ? taught[r] : nullptr;
      const int32_t target = targets[first + r];
      const auto put_gradient = [&](int64_t v, float gradient) {
        if (narrow_numbers) {
          narrow_numbers[r * narrow_stride + v] = bf16_of(gradient);
        } else {
          own[v] = gradient;
        }
      };
      if (target < 0) {
        if (threadIdx.x == 0) losses[0][first + r] = 0;
        for (int64_t v = threadIdx.x; gradients && v < vocabulary; v += kThreads) put_gradient(v, 0);
        return;
      }
      const LogSum q = log_sum_of(own, vocabulary, across);
      float loss = (1 - share) * (q.log_sum - (own[target] - q.most));
      LogSum p = {};
      if (other) {
        p = log_sum_of(other, vocabulary, across);
        float divergence = 0;
        for (int64_t v = threadIdx.x; v < vocabulary; v += kThreads) {
          const float log_p = other[v] - p.most - p.log_sum, log_q = own[v] - q.most - q.log_sum;
          divergence += expf(log_p) * (log_p - log_q);
        }
        loss += share * block_sum(divergence, across);
      }
      __syncthreads();  // all have read the target's logit
      if (threadIdx.x == 0) losses[0][first + r] = loss;
      for (int64_t v = threadIdx.x; gradients && v < vocabulary; v += kThreads) {
        float d = expf(own[v] - q.most - q.log_sum) - (v == target ? 1 - share : 0);
        if (other) d -= share * expf(other[v] - p.most - p.log_sum);
        put_gradient(v, loss_scale * d);
      }
    });
    const Tensor gradient = rounds && op.dx ? narrow.rows_of(0, count) : logit_rows;
    if (op.dx) multiply(context, {.a = gradient, .b = weight, .result = op.dx.rows_of(first, count)});
    if (op.dx && op.dweight)
      multiply(context,
               {.a = gradient, .b = x, .result = op.dweight, .a_transposed = true, .base = op.dweight});
  }
}

}  // namespace harmonic::cuda
