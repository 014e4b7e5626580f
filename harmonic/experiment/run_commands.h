// One run of an experiment through commands of this program, each a process of its own: its training, and
// what its model then comes to.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/base/json.h"
#include "harmonic/base/process.h"
#include "harmonic/experiment/plan.h"

namespace harmonic {

// What runs are computed with; all of it is told beside the speeds.
struct ExperimentMeans {
  int threads = 1;              // which the runs at a time share
  int jobs = 1;                 // runs at a time
  std::string device = "auto";  // cpu, cuda or auto
  std::string build;            // the program's version
};

// Threads may take different runs at once. All throw Interrupted after a request to stop.
class RunCommands {
 public:
  // `out` is the experiment's folder.
  RunCommands(std::filesystem::path out, ExperimentMeans means);

  // "{out}" replaced by the experiment's folder.
  std::string in_folder(std::string text) const;
  // Throws Error for a command that fails.
  void prepare(const std::vector<std::vector<std::string>>& commands) const;
  // Throws Error (usage) where `harmonic eval` does not take the flags that the run's task is asked with.
  void check_task(const PlannedRun& run) const;
  // Trains, or goes on with it, by settings/ID.toml, and leaves result.json and, of a run that is measured
  // and counts, sample.txt. Throws Error naming the run and its log when a command fails otherwise than by
  // divergence.
  void train(const PlannedRun& run) const;
  // Of a run that is finished, the measurements alone.
  void measure_again(const PlannedRun& run) const;

 private:
  std::filesystem::path folder_of(const PlannedRun& run) const { return out_ / "runs" / run.id; }
  std::filesystem::path log_of(const PlannedRun& run) const { return out_ / "logs" / (run.id + ".txt"); }
  std::vector<std::string> task_arguments(const PlannedRun& run) const;
  ProcessOutcome child(const PlannedRun& run, std::vector<std::string> arguments, std::string_view doing,
                       const std::filesystem::path& output = {}) const;
  int threads_of_a_run() const { return std::max(1, means_.threads / means_.jobs); }
  void write_result(const PlannedRun& run, const Json& result) const;
  [[noreturn]] void give_up(const PlannedRun& run, const ProcessOutcome& outcome) const;

  class Measurement;

  std::filesystem::path out_;
  ExperimentMeans means_;
};

}  // namespace harmonic
