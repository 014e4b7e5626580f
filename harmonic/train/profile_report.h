// Where the time of training steps went, for people and for programs.
#pragma once

#include <string>

#include "harmonic/ops/profile.h"

namespace harmonic {

// What steps are measured by, and what they were.
struct ProfiledSteps {
  std::string processor;  // vector instructions in use
  int threads = 1;
  double matrix_peak = 0;  // operations a second (measure_matrix_peak)
  double bandwidth = 0;    // bytes a second (measure_bandwidth)
  int64_t steps = 0, tokens = 0;
  double seconds = 0;  // of the steps, ops and everything between them
};

// A row for each op, its calls, milliseconds and share of a step, its operations and bytes a second, and the
// larger share of the machine's peak that one of these is; then what was outside ops. Without a last line
// end.
std::string profile_table(const Profile& profile, const ProfiledSteps& steps);
// The same numbers as JSON: docs/formats.md.
std::string profile_json(const Profile& profile, const ProfiledSteps& steps);

}  // namespace harmonic
