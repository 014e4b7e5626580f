// Takes the runs of a plan and leaves what came out in a folder (docs/formats.md,
// Experiments).
#pragma once

#include <filesystem>

#include "harmonic/experiment/plan.h"

namespace harmonic {

// What is finished in `out` is not run again; what was stopped goes on from its last checkpoint. A run that
// diverges is recorded as such and the others go on. `jobs` runs (at least 1) are taken at a time and share
// the threads. `build` names the program's version. Throws Error naming the run and its log when one fails
// otherwise, for results there that were made with other settings, and where another process works in `out`;
// (usage) where texts are missing or `out` holds something else. Where only the evaluation has changed, a
// finished run is measured again. Interrupted after a request to stop.
void run_experiment(const ExperimentPlan& plan, const std::filesystem::path& out, int threads, int jobs,
                    const std::string& build);

}  // namespace harmonic
