// This program run again with other arguments: each run of an experiment is a process of its own, so that
// what it remembers and the memory it took are its own too.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "harmonic/base/process.h"

namespace harmonic {

// Waits for it. Settings of the environment (HARMONIC_TRAIN_LR) do not reach it. Standard output goes to the
// file `output` (thrown away when empty); standard error is added to the file `log`, and each of its lines
// handed to `line`. A request to stop this program is passed on, and Interrupted thrown when the child has
// ended; when this program is killed the child stops too. Throws Error when it cannot be started.
ProcessOutcome run_child(const std::vector<std::string>& arguments, const std::filesystem::path& output,
                         const std::filesystem::path& log,
                         const std::function<void(const std::string&)>& line);

}  // namespace harmonic
