// Checkpoints: everything that a run needs to go on as if it had never stopped.
//
// A checkpoint is the folder checkpoint-<step> in the run's folder: a whole model folder (config.json,
// generation_config.json, tokenizer.json, model.safetensors) and beside it
//   optimizer.safetensors   what the optimiser remembers, in the parameters' names
//   carried.safetensors     "states" [streams, bytes] u8; only when states are carried
//   run.toml                the settings of the run
//   trainer_state.json      the numbers of CheckpointRecord, the SHA-256 of the settings that may not change
//                           and of every file above, and under "sha256" that of this object itself, written
//                           without that entry
// The position in the data and the state of all random numbers is the step. A checkpoint appears under its
// name when all of it is on disk; those before it go only then.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "harmonic/eval/model_folder.h"
#include "harmonic/model/weights.h"
#include "harmonic/train/train_config.h"

namespace harmonic {

struct CheckpointRecord {
  int64_t step = 0;             // steps done
  int64_t tokens = 0;           // targets seen
  double seconds = 0;           // of training so far
  std::string train_data_hash;  // TokenCorpus::hash()
  std::string valid_data_hash;  // empty when there is none
};

// What is saved and loaded besides the record. Views: the memory is the caller's.
struct CheckpointContents {
  Model& model;
  const Tokenizer& tokenizer;
  const RunConfig& config;
  std::vector<NamedTensor> optimizer;  // Optimizer::state()
  StateRows carried;                   // null when states are not carried
};

// Steps of the checkpoints in a run's folder, whole or damaged, the newest first.
std::vector<int64_t> checkpoint_steps(const std::filesystem::path& run);

// Writes the checkpoint of record.step into the run's folder, replacing one of that step. Throws Error, e.g.
// on a full disk; then the checkpoints that were there still are.
void save_checkpoint(const std::filesystem::path& run, const CheckpointRecord& record,
                     const CheckpointContents& contents);

// Makes <run>/model.safetensors a copy of the weights of the newest checkpoint, that of `step`, and removes
// all but the newest two. Throws Error; the checkpoint is whole all the same.
void publish_checkpoint(const std::filesystem::path& run, int64_t step);

// Removes all of a finished run's checkpoints, damaged and half-written ones too; its model stays. Warns
// about what cannot be removed.
void remove_checkpoints(const std::filesystem::path& run);

struct Checkpoint {
  std::filesystem::path folder;
  CheckpointRecord record;
  RunConfig config;         // of the run that wrote it
  Value settings;           // the same as its file names them: keys that came later are not among them
  std::string config_hash;  // SHA-256 of the settings that may not change; empty in format 1, which had none
};

// The newest checkpoint of a run that is whole: every file is there and has its SHA-256. Warns about ones
// that are proven to be damaged (a file is missing, malformed or not what its hash says) and sets them aside
// as checkpoint-<step>.damaged; also removes what a run that was killed while saving has left. None when
// there never was one. Throws Error, and changes nothing, when all are damaged, or when one cannot be read or
// is of a newer format: it may be whole.
std::optional<Checkpoint> find_checkpoint(const std::filesystem::path& run);

// Fills the model's parameters, the optimiser's numbers and the carried states. Throws Error.
void load_checkpoint(const Checkpoint& checkpoint, const CheckpointContents& contents);

// Throws Error (usage) naming the first setting of `now` that is not what the checkpoint's run had. A resumed
// run may change train.tokens, train.steps, train.eval_every, train.eval_tokens and train.checkpoint_every
// (the first two change the learning rates still to come), and where the texts and their cache lie: that they
// are the same texts is checked by their tokens.
void check_same_run(const Checkpoint& checkpoint, const RunConfig& now);

}  // namespace harmonic
