// How many processors there are for this process.
#pragma once

#include <filesystem>
#include <string_view>

namespace harmonic {

// Those of its affinity mask, or fewer by the quotas of its control groups (version 2), as containers have;
// at least 1.
int available_processors();

// The processors, rounded up, that the quotas (cpu.max) of a process's control groups are worth; 0 for no
// quota. `groups`: the text of its /proc/PID/cgroup, of which version 2 counts; `root`: where that is
// mounted.
int processors_of_quota(std::string_view groups, const std::filesystem::path& root);

}  // namespace harmonic
