// The phases of a distillation as a file names them: [phase.1], [phase.2], ... have the keys of [train], and
// in [phase.N.data] those of [data], that differ from the file's [train] and [data].
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/train/train_config.h"

namespace harmonic {

struct DistillPhase {
  std::string name;  // "1"
  RunConfig config;  // its model is the student's
};

// In order. `student` is the model of all phases. `data` and `valid`, where not empty, take the place of
// every phase's. Throws Error (usage) naming the file, and what is wrong with it.
std::vector<DistillPhase> load_distill_plan(const std::filesystem::path& path, const ModelConfig& student,
                                            const std::vector<std::string>& data,
                                            const std::vector<std::string>& valid,
                                            const std::vector<Override>& overrides);

}  // namespace harmonic
