// The charts of a report, each from what an experiment holds; none where it holds nothing for it.
#pragma once

#include <vector>

#include "harmonic/experiment/results.h"
#include "harmonic/experiment/svg_chart.h"

namespace harmonic {

// The experiment's figure against the length of training, or, where there is one place only, by seed; and the
// paired differences against the same.
std::vector<Chart> comparison_charts(const ExperimentResults& experiment);
// Against the length read, for each length of training, where others were evaluated too; carried states.
std::vector<Chart> evaluation_charts(const ExperimentResults& experiment);
std::vector<Chart> cost_charts(const ExperimentResults& experiment);  // memory, speed, state against length
std::vector<Chart> task_charts(const ExperimentResults& experiment);
// Loss on the way, of training or held out, against tokens and against seconds for each length of training;
// those of runs that do not count are dashed.
std::vector<Chart> curve_charts(const ExperimentResults& experiment, bool held_out);
std::vector<Chart> profile_charts(const ExperimentResults& experiment);  // by context, by phase
std::vector<Chart> tuning_charts(const ExperimentResults& experiment);

}  // namespace harmonic
