// train: the one trainer of every model. Optimisers, schedules, checkpoints, metrics.
//
// The keys of [train] in a run's TOML, and a whole run: model, data and training.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/base/fields.h"
#include "harmonic/data/data_config.h"
#include "harmonic/model/config.h"

namespace harmonic {

struct TrainConfig {
  int64_t seq_len = 1024;           // tokens a sequence
  int64_t batch_size = 8;           // sequences a step, over all passes of accumulation
  int64_t accumulation = 1;         // passes that a step's sequences are divided over; divides batch_size
  int64_t tokens = 20'000'000;      // the budget; a run ends with the step that reaches it
  int64_t steps = 0;                // above 0 it is the budget instead of tokens
  std::string objective = "text";   // "layers" or "teacher": distillation's (convert/distillation.h)
  double teacher_share = 0.8;       // "teacher": of its divergence in the loss, the rest is the text's
  std::string only = "all";         // or "mixers": the rest of the model stays as it is
  std::string loader = "windows";   // "windows", "documents" or "streams"
  bool carry_state = false;         // streams: a sequence's state is handed to the next one
  std::string optimizer = "adamw";  // or "muon": hidden matrices by Muon at muon_lr, the rest by AdamW
  double lr = 3e-3;
  double muon_lr = 1.5e-2;
  double warmup = 0.05;             // share of the run
  std::string schedule = "cosine";  // to min_lr of the peak; or "wsd"
  double min_lr = 0.1;              // share of the peak
  double weight_decay = 0.1;        // on matrices
  std::vector<double> betas = {0.9, 0.95};
  double clip = 1.0;               // global norm of the gradient; 0 is no clipping
  int64_t memory_mb = 512;         // for activations; longer sequences go by chunks
  int64_t chunk_len = 0;           // tokens; 0: from memory_mb and the config
  int64_t eval_every = 500;        // steps; 0 is never
  int64_t eval_tokens = 0;         // held-out tokens at most, from the start of the split; 0 is all
  int64_t checkpoint_every = 500;  // steps; 0 is at the end only
  bool tensorboard = false;
  std::string precision = "f32";  // or "bf16"
  int64_t seed = 1;

  // The fields of [train], bound to this object.
  std::vector<Field> fields();
  // Throws Error (usage) naming the key, its value and what would do.
  void validate() const;

  int64_t tokens_per_step() const;  // seq_len x batch_size; throws Error on overflow
  int64_t total_steps() const;      // of the whole run, from steps or tokens; at least 1
};

struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;

  // All fields with whole keys: "model.d_model", "data.train", "train.lr".
  std::vector<Field> fields();
  void validate() const;
  // Every field, defaults too; equal configurations give equal text.
  std::string to_toml() const;
};

// One "train.lr=3e-3" and where it came from, for messages.
struct Override {
  std::string assignment;
  std::string where = "--set";
};

// Defaults, then model.preset (the last one given anywhere), then the TOML file when `path` is not empty,
// then the environment (HARMONIC_TRAIN_LR), then the overrides in their order. Paths in the file stand as
// written, relative to the working folder. Validated. Throws Error (usage) with file, line and column.
RunConfig load_run_config(const std::filesystem::path& path, const std::vector<Override>& overrides);
RunConfig parse_run_config(std::string_view toml, std::string_view source);  // no environment, no overrides
// Of a file's table, and the overrides; no environment.
RunConfig run_config_of(const Value& table, const std::vector<Override>& overrides);

// The environment variable of a key: HARMONIC_TRAIN_LR of "train.lr".
std::string environment_name(std::string_view key);

}  // namespace harmonic
