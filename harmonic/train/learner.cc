#include "harmonic/train/learner.h"

#include <cmath>

#include "harmonic/base/checked.h"
#include "harmonic/base/divergence.h"
#include "harmonic/base/error.h"
#include "harmonic/train/schedule.h"

namespace harmonic {
namespace {

LoaderConfig loader_config(const RunConfig& config) {
  LoaderConfig loader;
  loader.kind = loader_kind_of(config.train.loader);
  loader.seq_len = config.train.seq_len;
  loader.batch_size = config.train.batch_size;
  loader.seed = static_cast<uint64_t>(config.train.seed);
  loader.within_document = config.data.within_document;
  return loader;
}

int64_t memory_bytes(const TrainConfig& config) {
  return checked_mul(config.memory_mb, int64_t{1} << 20, "train.memory_mb");
}

// Sequences [first, last) of a batch as a batch of their own.
void copy_sequences(const Batch& batch, int64_t first, int64_t last, Batch& part) {
  part.clear();
  part.offsets.assign(1, 0);
  part.sequences = last - first;
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    Batch::Segment segment = batch.segments[s];
    if (segment.sequence < first || segment.sequence >= last) continue;
    segment.sequence -= first;
    part.segments.push_back(segment);
    const auto begin = batch.offsets[s], end = batch.offsets[s + 1];
    part.tokens.insert(part.tokens.end(), batch.tokens.begin() + begin, batch.tokens.begin() + end);
    part.targets.insert(part.targets.end(), batch.targets.begin() + begin, batch.targets.begin() + end);
    part.offsets.push_back(part.rows());
    for (int64_t r = begin; r < end; ++r) part.target_count += batch.targets[static_cast<size_t>(r)] >= 0;
  }
}

}  // namespace

double training_operations_per_token(const Model& model) {
  return 2 * 3 * (model.work().per_token() + static_cast<double>(model.head().value.size()));
}

Learner::Learner(Model& model, const RunConfig& config, TokenCorpus corpus, ThreadPool& pool,
                 const Objective& objective)
    : model_(model),
      config_(config.train),
      total_steps_(config.train.total_steps()),
      loader_(make_loader(std::move(corpus), loader_config(config))),
      backpropagation_(model, pool, memory_bytes(config.train), config.train.chunk_len,
                       Backpropagation::kKeptStates, objective),
      optimizer_(model.parameters(), model.backend(), config.train, objective),
      scratch_(model.backend().memory),
      states_(model.backend().memory),
      context_{pool, scratch_} {
  if (const int64_t longest = objective.longest_text(); longest > 0 && config_.seq_len > longest)
    fail_usage("train.seq_len = {}: the teacher takes texts of {} tokens at most; lower it", config_.seq_len,
               longest);
  backpropagation_.expect_room_for(config_.seq_len);
  if (config_.carry_state) carried_ = make_state_rows(states_, model.state_layout(), config_.batch_size);
}

LossSum Learner::run_part(const Batch& batch, int64_t first_sequence, int64_t last_sequence,
                          double loss_scale) {
  StateRows carried = carried_;
  if (carried) {
    carried.data = carried_.row(first_sequence);
    carried.count = last_sequence - first_sequence;
  }
  if (last_sequence - first_sequence == batch.sequences)
    return backpropagation_.run(batch, carried, loss_scale);
  copy_sequences(batch, first_sequence, last_sequence, part_);
  return backpropagation_.run(part_, carried, loss_scale);
}

StepReport Learner::advance() {
  const Batch& batch = loader_->next(steps_done_);
  HARMONIC_ASSERT(batch.target_count > 0);
  const double loss_scale = 1 / static_cast<double>(batch.target_count);
  LossSum sum;
  const int64_t passes = config_.accumulation;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const LossSum part =
        run_part(batch, batch.sequences * pass / passes, batch.sequences * (pass + 1) / passes, loss_scale);
    sum.nats += part.nats;
    sum.targets += part.targets;
  }
  HARMONIC_ASSERT(sum.targets == batch.target_count);

  StepReport report;
  report.step = steps_done_ + 1;
  report.targets = sum.targets;
  report.loss = sum.nats / static_cast<double>(sum.targets);
  report.gradient_norm = optimizer_.gradient_norm(context_);
  if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm))
    fail_diverged(
        "training diverged at step {}: the loss is {} and the gradient's norm {}; a lower train.lr, a longer "
        "train.warmup or a smaller train.clip may help",
        report.step, report.loss, report.gradient_norm);
  const double scale =
      config_.clip > 0 && report.gradient_norm > config_.clip ? config_.clip / report.gradient_norm : 1;
  const double share = learning_rate_share(config_, report.step, total_steps_);
  report.lr = config_.lr * share;
  optimizer_.update(context_, report.step, share, scale);
  ++steps_done_;
  return report;
}

}  // namespace harmonic
