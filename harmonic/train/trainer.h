// A whole training run: steps, evaluations, checkpoints, metrics, progress, and a clean stop.
#pragma once

#include <filesystem>
#include <optional>

#include "harmonic/eval/evaluation.h"
#include "harmonic/train/checkpoint.h"
#include "harmonic/train/learner.h"
#include "harmonic/train/metrics.h"
#include "harmonic/train/profile_report.h"
#include "harmonic/train/training_data.h"

namespace harmonic {

class Trainer {
 public:
  // `model` has its first values and takes the tokenizer of `data`; `out` is the run's folder (RunFolder).
  // Model, data, pool and objective must outlive this. Throws Error when the texts are too short for the
  // configuration.
  Trainer(const RunConfig& config, Model& model, const TrainingData& data, std::filesystem::path out,
          ThreadPool& pool, const Objective& objective = text_objective());

  // Before run(): makes everything what it was at the checkpoint. Throws Error when settings, tokenizer or
  // texts are not those of the run that wrote it.
  void resume(const Checkpoint& checkpoint);

  // Before run(): has the steps, all but the first, counted by `profile`, which watches the model's backend
  // and must outlive this. At the end profile.json lies beside metrics.jsonl.
  void profile_steps(Profile& profile) { profile_ = &profile; }
  const ProfiledSteps& profiled_steps() const { return profiled_; }

  enum class End {
    finished,     // all steps are taken and saved
    interrupted,  // the program was asked to stop before that; a checkpoint is written
  };
  // Trains to the end. After every step in turn: metrics, a checkpoint where one is due, a held-out
  // evaluation where one is due. The same steps have the same bits whatever the threads, and however often
  // the run was stopped or killed and resumed. Throws Error when it diverges or cannot write; what is on disk
  // then stays a run to resume.
  End run();

  bool evaluates() const { return data_.valid && config_.train.eval_every > 0; }
  const Learner& learner() const { return learner_; }

 private:
  void write_description();
  void take_step(MetricsFile& metrics);
  void validate(MetricsFile& metrics);
  bool validation_due() const;
  bool checkpoint_due() const;
  void save();
  template <typename Line>
  void append(MetricsFile& metrics, const Line& line);
  void report_progress(const StepReport& report);
  std::string last_checkpoint() const;
  double bits_per_byte(double loss) const;  // NaN where the loss is not in nats
  CheckpointContents contents();
  void begin_profile();
  void end_profile();

  RunConfig config_;
  Model& model_;
  const TrainingData& data_;
  std::filesystem::path out_;
  ThreadPool& pool_;
  LossUnit unit_;
  Learner learner_;
  Inference inference_;

  int64_t tokens_ = 0;       // targets seen
  double seconds_ = 0;       // of training steps
  int64_t saved_step_ = -1;  // of the newest checkpoint
  int64_t logged_tokens_ = 0;
  double logged_seconds_ = 0;
  double peak_ = 0;                                // of the machine, floating-point operations a second
  double recent_tokens_ = 0, recent_seconds_ = 0;  // of the last steps, older ones fading
  double shown_at_ = -1;                           // seconds_ at the last progress line
  Profile* profile_ = nullptr;
  bool warm_ = false;  // a step has been taken by this object
  ProfiledSteps profiled_;
};

}  // namespace harmonic
