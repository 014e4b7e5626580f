// harmonic experiment: a comparison, planned in a file, run and measured.
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/experiment/runner.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

class Experiment : public Command {
 public:
  void declare(Options& options) override {
    options.add("NAME", &name_, "an experiment of --plans, or a TOML file").placeholder("NAME").required();
    options.add("--scale", &scale_,
                "which of the experiment's sizes: smoke, cpu, and paper where a plan has it");
    options.add("--data", &overrides_.train, "texts to train on, in place of the file's")
        .placeholder("PATH...");
    options.add("--valid", &overrides_.valid, "held-out texts, in place of the file's")
        .placeholder("PATH...");
    options
        .add("--test", &overrides_.test,
             "texts that the runs which count are measured on; the held-out ones then only choose")
        .placeholder("PATH...");
    options
        .add("--out", &out_,
             "folder of the results, new, empty or this experiment's; runs/NAME-SCALE when left out")
        .placeholder("DIR");
    options.add("--jobs", &jobs_, "runs at a time, which share the threads").range(1, 1024);
    options.add("--plans", &plans_, "folder of the experiments").placeholder("DIR");
    options.add("--list", &list_, "show the runs and stop");
    options.add_settings(&overrides_.settings, Options::Environment::does_not);
  }

  bool uses_device() const override { return true; }
  int run(const CommandContext& context) override {
    watch_for_interrupts();
    const ExperimentPlan plan = ExperimentPlan::load(path(), scale_, overrides_);
    if (list_) {
      for (const PlannedRun& run : plan.tuning()) print("{}\n", run.id);
      for (const PlannedRun& run : plan.runs({})) print("{}\n", run.id);
      return 0;
    }
    const fs::path out = out_.empty() ? fs::path("runs") / (plan.name + "-" + plan.scale) : fs::path(out_);
    run_experiment(plan, out, {context.threads, static_cast<int>(jobs_), context.device, HARMONIC_VERSION});
    log("done: harmonic report {} --out report.html shows it", out.string());
    return 0;
  }

 private:
  std::string path() const {
    if (name_.ends_with(".toml")) return name_;
    const fs::path file = fs::path(plans_) / (name_ + ".toml");
    std::error_code error;
    if (fs::exists(file, error)) return file.string();
    std::vector<std::string> names;
    for (fs::directory_iterator i(plans_, error), end; !error && i != end; i.increment(error))
      if (i->path().extension() == ".toml") names.push_back(i->path().stem().string());
    std::sort(names.begin(), names.end());
    if (names.empty())
      fail_usage("{}: no experiments there; name their folder with --plans, or a TOML file", plans_);
    fail_usage("no experiment \"{}\" in {}; there are {}{}", name_, plans_, fmt::join(names, ", "),
               did_you_mean(name_, names));
  }

  std::string name_, scale_ = "cpu", out_, plans_ = "experiments/plans";
  PlanOverrides overrides_;
  int64_t jobs_ = 1;
  bool list_ = false;
};

const Registered<Experiment> registered("experiment", "run a comparison of models");

}  // namespace
}  // namespace harmonic
