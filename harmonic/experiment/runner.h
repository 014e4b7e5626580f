// Takes the runs of a plan and leaves what came out in a folder (docs/formats.md,
// Experiments).
#pragma once

#include <filesystem>

#include "harmonic/experiment/run_commands.h"

namespace harmonic {

// What is finished in `out` is not run again; what was stopped goes on from its last checkpoint. A run that
// diverges is recorded as such and the others go on, and so they do where no learning rate of a variant was
// good, which is an Error at the end. Throws Error naming the run and its log when one fails
// otherwise, for results there that were made with other settings, and where another process works in `out`;
// (usage) where texts are missing or `out` holds something else. Where only the evaluation has changed, a
// finished run is measured again. Interrupted after a request to stop.
void run_experiment(const ExperimentPlan& plan, const std::filesystem::path& out,
                    const ExperimentMeans& means);

}  // namespace harmonic
