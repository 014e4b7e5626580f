#include "harmonic/train/trainer.h"

#include <sys/resource.h>

#include <chrono>
#include <cmath>

#include "harmonic/base/checked.h"
#include "harmonic/base/divergence.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/ops/bf16_instructions.h"
#include "harmonic/ops/device_peak.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {
namespace {

constexpr int64_t kMetricLines = 10000;   // of steps in a whole run, about
constexpr double kProgressSeconds = 0.1;  // between lines
constexpr double kFading = 0.9;           // of the speed of steps past, a step

using Clock = std::chrono::steady_clock;

int64_t peak_memory_bytes() {
  struct rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// 3:07, 1:02:03
std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

// 950, 18.2K, 3.1M
std::string short_number(double number) {
  if (number < 1000) return fmt::format("{:.0f}", number);
  if (number < 1e6) return fmt::format("{:.1f}K", number / 1e3);
  return fmt::format("{:.1f}M", number / 1e6);
}

}  // namespace

Trainer::Trainer(const RunConfig& config, Model& model, const TrainingData& data, std::filesystem::path out,
                 ThreadPool& pool, const Objective& objective)
    : config_(config),
      model_(model),
      data_(data),
      out_(std::move(out)),
      pool_(pool),
      unit_(objective.unit()),
      learner_(model, config, data.train, pool, objective),
      inference_(model, pool) {
  check_tokenizer(model.config(), *data.tokenizer, "training");
}

CheckpointContents Trainer::contents() {
  return {model_, *data_.tokenizer, config_, learner_.optimizer().state(), learner_.carried()};
}

void Trainer::resume(const Checkpoint& checkpoint) {
  check_same_run(checkpoint, config_);
  const CheckpointRecord& record = checkpoint.record;
  const std::string name = checkpoint.folder.string();
  if (record.train_data_hash != data_.train.hash())
    fail("{}: data.train holds other texts than the run to resume was trained on", name);
  if (record.valid_data_hash != (data_.valid ? data_.valid->hash() : ""))
    fail("{}: data.valid holds other texts than those of the run to resume", name);
  if (record.step > learner_.total_steps())
    fail_usage("{}: has taken {} steps; the budget is {}: raise train.steps or train.tokens", name,
               record.step, learner_.total_steps());
  load_checkpoint(checkpoint, contents());
  learner_.continue_after(record.step);
  tokens_ = logged_tokens_ = record.tokens;
  seconds_ = logged_seconds_ = record.seconds;
  saved_step_ = record.step;
}

void Trainer::write_description() {
  // First what makes the folder a run's: it can be resumed from then on.
  write_file(out_ / "run.toml", config_.to_toml());
  write_model_description(out_, model_.config(), *data_.tokenizer);
}

Trainer::End Trainer::run() {
  write_description();
  if (saved_step_ >= 0) publish_checkpoint(out_, saved_step_);  // a kill may have come between the two
  MetricsFile metrics(out_, learner_.steps_done(), config_.train.tensorboard);
  peak_ = measure_matrix_peak(pool_, model_.backend());
  if (profile_) begin_profile();
  const auto complete = [&] { return learner_.steps_done() == learner_.total_steps(); };
  try {
    if (validation_due() && !metrics.validated_at(learner_.steps_done())) validate(metrics);
    while (!complete() && !interrupted()) {
      take_step(metrics);
      if (checkpoint_due()) save();
      if (validation_due()) validate(metrics);
    }
  } catch (const Interrupted&) {
    if (complete())
      log("the last held-out evaluation was interrupted; harmonic train --resume --out {} makes it",
          out_.string());
  }
  if (learner_.steps_done() != saved_step_) save();
  end_progress();
  if (profile_) end_profile();
  return complete() ? End::finished : End::interrupted;
}

void Trainer::begin_profile() {
  profile_->clear();
  profiled_ = {};
  profiled_.processor = simd_target_name();
  const Backend& backend = model_.backend();
  if (backend.device == Device::cpu && backend.precision == Precision::bf16)
    profiled_.processor = name_of(bf16_instructions());
  profiled_.threads = pool_.threads();
  profiled_.matrix_peak = peak_;
  profiled_.bandwidth = measure_bandwidth(pool_, backend);
}

void Trainer::end_profile() { write_file(out_ / "profile.json", profile_json(*profile_, profiled_)); }

void Trainer::take_step(MetricsFile& metrics) {
  const bool profiled = profile_ && warm_;
  warm_ = true;
  if (profiled) profile_->set_active(true);
  const auto start = Clock::now();
  StepReport report;
  try {
    report = learner_.advance();
  } catch (const Diverged& error) {
    fail_diverged("{}; {}", error.what(), last_checkpoint());
  } catch (const Error& error) {
    fail("{}; {}", error.what(), last_checkpoint());
  }
  const double taken = std::chrono::duration<double>(Clock::now() - start).count();
  if (profiled) {
    profile_->set_active(false);
    profiled_.steps += 1;
    profiled_.tokens += report.targets;
    profiled_.seconds += taken;
  }
  seconds_ += taken;
  tokens_ += report.targets;
  recent_tokens_ = kFading * recent_tokens_ + static_cast<double>(report.targets);
  recent_seconds_ = kFading * recent_seconds_ + taken;

  const int64_t total = learner_.total_steps();
  const int64_t every = ceil_div(total, kMetricLines);
  if (report.step == 1 || report.step % every == 0 || report.step == total) {
    StepMetrics line;
    line.step = report.step;
    line.tokens = tokens_;
    line.loss = report.loss;
    line.bits_per_byte = bits_per_byte(report.loss);
    line.lr = report.lr;
    line.grad_norm = report.gradient_norm;
    line.tokens_per_second = static_cast<double>(tokens_ - logged_tokens_) / (seconds_ - logged_seconds_);
    line.peak_memory_bytes = peak_memory_bytes();
    line.seconds = seconds_;
    append(metrics, line);
    logged_tokens_ = tokens_;
    logged_seconds_ = seconds_;
  }
  report_progress(report);
}

double Trainer::bits_per_byte(double loss) const {
  return unit_ == LossUnit::nats ? loss * kBitsPerNat / data_.train.bytes_per_token() : std::nan("");
}

void Trainer::report_progress(const StepReport& report) {
  const bool last = report.step == learner_.total_steps();
  if (!last && shown_at_ >= 0 && seconds_ - shown_at_ < kProgressSeconds) return;
  shown_at_ = seconds_;
  const double speed = recent_tokens_ / recent_seconds_;
  const double left = static_cast<double>(learner_.total_steps() - report.step) *
                      static_cast<double>(config_.train.tokens_per_step()) / speed;
  const double bits = bits_per_byte(report.loss);
  progress(fmt::format("step {}/{}  loss {:.4f}{}  {} tokens/s  {:.0f} % of peak  {} MB  {} left",
                       report.step, learner_.total_steps(), report.loss,
                       std::isnan(bits) ? "" : fmt::format("  {:.4f} bits/byte", bits), short_number(speed),
                       100 * training_operations_per_token(model_) * speed / peak_, peak_memory_bytes() >> 20,
                       duration(left)));
}

bool Trainer::validation_due() const {
  const int64_t step = learner_.steps_done(), every = config_.train.eval_every;
  return data_.valid && every > 0 && step > 0 && (step % every == 0 || step == learner_.total_steps());
}

bool Trainer::checkpoint_due() const {
  const int64_t step = learner_.steps_done(), every = config_.train.checkpoint_every;
  return (every > 0 && step % every == 0) || step == learner_.total_steps();
}

void Trainer::validate(MetricsFile& metrics) {
  EvaluationOptions options;
  options.length = config_.train.seq_len;
  if (config_.train.carry_state) options.state = EvaluationState::carry;
  options.max_tokens = config_.train.eval_tokens;
  const EvaluationResult result = evaluate(inference_, *data_.valid, options);
  ValidationMetrics line;
  line.step = learner_.steps_done();
  line.tokens = tokens_;
  line.bits_per_token = result.bits_per_token();
  line.bits_per_byte = result.bits_per_byte();
  line.seconds = seconds_;
  append(metrics, line);
  log("step {}: held-out {:.4f} bits/token, {:.4f} bits/byte over {} tokens", line.step, line.bits_per_token,
      line.bits_per_byte, result.tokens);
}

template <typename Line>
void Trainer::append(MetricsFile& metrics, const Line& line) {
  try {
    metrics.append(line);
  } catch (const Error& error) {
    // What was learned since the last checkpoint is worth more than the line.
    if (saved_step_ != learner_.steps_done()) save();
    fail("{}; training stops; {}", error.what(), last_checkpoint());
  }
}

void Trainer::save() {
  CheckpointRecord record;
  record.step = learner_.steps_done();
  record.tokens = tokens_;
  record.seconds = seconds_;
  record.train_data_hash = data_.train.hash();
  record.valid_data_hash = data_.valid ? data_.valid->hash() : "";
  try {
    save_checkpoint(out_, record, contents());
  } catch (const Error& error) {
    fail("{}; the checkpoint of step {} was not written and training stops; {}", error.what(), record.step,
         last_checkpoint());
  }
  saved_step_ = record.step;
  try {
    publish_checkpoint(out_, saved_step_);
  } catch (const Error& error) {
    fail("{}; the checkpoint of step {} was written but is not the run's model yet and training stops; {}",
         error.what(), saved_step_, last_checkpoint());
  }
}

std::string Trainer::last_checkpoint() const {
  if (saved_step_ < 0) return "there is no checkpoint yet";
  return fmt::format("the one of step {} in {} is whole: --resume goes on from it", saved_step_,
                     out_.string());
}

}  // namespace harmonic
