// The folder of a distillation: the student's model, a run's folder phase-N (train/run_folder.h) for each
// phase, .lock, and distill.json, which says what the distillation began with and every phase in turn: phases
// that do not follow from each other are found by it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "harmonic/base/file_lock.h"

namespace harmonic {

// Keeps the folder for one process while it lives. Not thread-safe.
class DistillFolder {
 public:
  // What a distillation begins with, by Parameters::hash().
  struct Models {
    std::string teacher, student;
  };

  // Without `resume` the folder must not be there, or hold nothing. With it, it may also be that of a
  // distillation that began with the same models. Nothing is made yet. Throws Error (usage) for these, Error
  // when another process distils there or distill.json is not one.
  DistillFolder(std::filesystem::path path, bool resume, Models models);

  // Makes the folder, where it is not a distillation's yet. Throws Error.
  void create();

  // Phases whose folders are there: 1 to this number.
  size_t phases_begun() const { return begun_; }
  std::filesystem::path phase(size_t number) const;
  // Before phase `number` runs or is passed over, in order: the weights that it begins with are recorded, or,
  // where its folder is there, held against those that it began with. Throws Error (usage) when they differ.
  void enter_phase(size_t number, const std::string& weights);

 private:
  bool is_one() const;
  void lock();
  void read_record();
  void write_record() const;
  void count_phases();

  std::filesystem::path path_;
  Models models_;
  std::vector<std::string> first_weights_;  // of the phases that have begun
  size_t begun_ = 0;
  std::optional<FileLock> lock_;
};

}  // namespace harmonic
