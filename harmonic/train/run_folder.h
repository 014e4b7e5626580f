// The folder of a run. It is itself a model folder (config.json, generation_config.json, tokenizer.json,
// model.safetensors: the weights of the newest checkpoint) and holds beside it run.toml, metrics.jsonl, the
// checkpoints (checkpoint.h) and .lock.
#pragma once

#include <filesystem>
#include <optional>

#include "harmonic/base/file_lock.h"
#include "harmonic/train/checkpoint.h"

namespace harmonic {

// Whether a program could have been killed here before its first file: the folder is not there, or has
// nothing but hidden and unfinished files. Throws Error when it cannot be listed, or is a file.
bool holds_nothing(const std::filesystem::path& folder);

// Keeps the folder for one process while it lives. Not thread-safe.
class RunFolder {
 public:
  // Without `resume` a folder is made where there is none, and one that holds a run, a model, or any file
  // that a run would write over is refused. With it the folder must be there and hold a run, or nothing yet:
  // a run may be killed before its first file. Throws Error (usage) for these, Error when another process
  // trains there or all checkpoints are damaged.
  RunFolder(std::filesystem::path path, bool resume);

  const std::filesystem::path& path() const { return path_; }
  // Where to go on; none at a run's beginning.
  const std::optional<Checkpoint>& checkpoint() const { return checkpoint_; }

 private:
  std::filesystem::path path_;
  std::optional<FileLock> lock_;
  std::optional<Checkpoint> checkpoint_;
};

}  // namespace harmonic
