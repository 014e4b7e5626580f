// experiment: the comparisons of the paper. A plan is a TOML file and a scale; it comes to a grid of runs,
// each a run's configuration, which the runner trains and evaluates and the report tells about.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "harmonic/train/train_config.h"

namespace harmonic {

// How a trained model is measured.
struct ExperimentEvaluation {
  std::vector<std::string> texts;              // empty: the held-out texts of the run's settings
  std::vector<int64_t> lengths;                // empty: the length it was trained at
  std::vector<std::string> states = {"cold"};  // "cold", "carry"
  int64_t max_tokens = 0;                      // 0 is the whole split
  std::string task;                            // of `harmonic eval --task`, or none
  std::vector<std::string> task_arguments;     // the flags that belong to it
  int64_t longest_text = 0;                    // tokens that a model must be able to hold for its task
};

struct PlannedRun {
  std::string id;  // a folder's name; tells the run's place in the grid
  std::string variant;
  int64_t length = 0, seed = 0;
  double lr_factor = 1;  // of train.lr and train.muon_lr
  bool tuning = false;   // its result chooses the factor of its variant and is nothing else
  RunConfig config;
  ExperimentEvaluation evaluation;  // of tuning runs: the held-out texts, cold, at the run's own length
  bool evaluated = true;

  // What it is measured on; none when it is not, but for a task.
  std::vector<std::string> texts() const {
    if (!evaluated) return {};
    return evaluation.texts.empty() ? config.data.valid : evaluation.texts;
  }
};

// What the command line puts in place of what the file says.
struct PlanOverrides {
  // Texts; empty leaves the file's. What is tuned is chosen on `valid`; the runs that count are measured on
  // `test`, or on `valid` where there is none.
  std::vector<std::string> train, valid, test;
  std::vector<Override> settings;  // of every run, but for what the plan tells runs apart by
};

// One scale of one experiment. The file's keys: docs/experiments.md.
class ExperimentPlan {
 public:
  // Throws Error (usage) naming file, line and column.
  static ExperimentPlan load(const std::string& path, const std::string& scale,
                             const PlanOverrides& overrides);

  std::string name, scale, title, question;
  std::vector<std::string> variants;                       // in the file's order
  std::vector<std::pair<std::string, std::string>> pairs;  // paired by seed: the first minus the second

  // Commands of this program that make texts, each once, before the first run. "{out}" in them and in the
  // names of texts stands for the folder of the results.
  std::vector<std::vector<std::string>> prepare;

  bool measures_a_task() const { return !evaluation_.task.empty(); }
  // The runs that choose each variant's learning rate: none where there is nothing to choose.
  std::vector<PlannedRun> tuning() const;
  // The runs that count, given the factor of each variant (1 where it has none).
  std::vector<PlannedRun> runs(const std::map<std::string, double>& lr_factors) const;
  // Throws Error (usage) naming the first run that has no texts to train on or to be measured on.
  void expect_texts() const;

 private:
  struct Cell {  // of the grid
    std::vector<std::string> variants;
    std::vector<int64_t> lengths, seeds;
    Value run;  // what it changes of the run
    bool evaluated = true;
  };
  // The parts of load(): each reads its keys of the file or of the scale that was chosen.
  void read_variants(const Value& file, const Value& chosen, const std::string& path);
  void read_measuring(const Value& file, const Value& chosen);
  void read_preparation(const Value& chosen);
  void read_grid(const Value& chosen, const std::string& path);
  void read_tuning(const Value& chosen);
  void refuse_settings_of_the_plan() const;

  PlannedRun planned(const std::string& variant, int64_t length, int64_t seed, const Value& change) const;

  std::map<std::string, Value> run_of_;  // each variant's, before the grid's changes
  std::vector<std::string> differing_;   // keys that variants or the grid's entries set
  std::vector<Cell> grid_;
  ExperimentEvaluation evaluation_;
  PlanOverrides overrides_;
  int64_t tokens_per_step_ = 0;
  std::vector<double> lr_factors_;
  std::vector<std::string> tuned_;                     // variants
  double factor_of(const std::string& variant) const;  // of learning rates, before any was chosen
  int64_t tune_length_ = 0, tune_seed_ = 1;
  Value tune_run_;
};

}  // namespace harmonic
