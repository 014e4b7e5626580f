// What a run of an experiment is to be, as a file beside its results: they are held to it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harmonic/experiment/plan.h"

namespace harmonic {

// SHA-256 of what the files hold that a run reads; empty where it has none.
struct TextHashes {
  std::string train, valid, measured;
  std::string tokenizer;  // Tokenizer::hash(), where data.tokenizer is a file or a folder
  std::string task;       // those that task_arguments name
};

// The text of plans/ID.toml: the settings of the training, the commands that make its texts ("prepare"),
// [texts], what these and the other files hold, and [evaluate], how its model is measured. Equal plans give
// equal texts.
std::string run_plan_text(const PlannedRun& run, RunConfig config,
                          const std::vector<std::vector<std::string>>& prepare, const TextHashes& texts);

enum class PlanChange {
  none,
  evaluation,  // the model is the same and measured otherwise
  training,
};

// Of such a text, in which a setting that is missing has its default and files that are not told are the
// same, read from the file `source`, against the text of now. Throws Error where it is none.
PlanChange plan_change(std::string_view before, std::string_view now, std::string_view source);

}  // namespace harmonic
