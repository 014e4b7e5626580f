// What the folders of an experiment and of a training run hold (docs/formats.md, "Experiments").
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harmonic/base/value.h"
#include "harmonic/train/metrics.h"

namespace harmonic {

struct ContextLoss {
  int64_t from = 0, to = 0;  // tokens that the model had seen, both included
  int64_t tokens = 0;
  double bits_per_token = 0;
};

// One evaluation of a run.
struct LengthResults {
  int64_t length = 0;          // tokens a window
  std::string state = "cold";  // or "carry"
  int64_t tokens = 0, bytes = 0;
  double bits_per_token = 0, bits_per_byte = 0;
  std::vector<ContextLoss> by_context;  // may be empty
  std::vector<double> by_phase;         // bits per token at t mod its size; may be empty
};

struct TaskResults {
  std::string task, group;  // group: a distance, a count, a name
  int64_t examples = 0;
  double accuracy = 0;  // 0 to 1
  double chance = 0;    // what guessing alone would have; NaN when not told
  double bits = 0;      // of the answer; NaN when not told
};

// A point of a training curve: the mean over a few steps in a row.
struct CurvePoint {
  double tokens = 0, seconds = 0, bits_per_byte = 0;
};

struct RunResults {
  enum class Kind { run, tune };
  // unfinished: there is no result.json; not_begun: there is no folder.
  enum class Status { finished, diverged, unfinished, not_begun };

  std::string id;
  bool planned = true;  // false: the plan had it once and has it no more
  Kind kind = Kind::run;
  Status status = Status::unfinished;
  std::vector<std::pair<std::string, std::string>> axes;
  int64_t core_parameters = 0, embedding_parameters = 0;  // 0, here and below: not told
  double multiply_adds = 0, head_multiply_adds = 0;       // a token, forward
  int64_t state_bytes = 0;
  int64_t train_tokens = 0, steps = 0;
  double tokens_per_second = 0;
  int64_t peak_memory_bytes = 0;
  double seconds = 0;
  std::string computed_on;  // processor or card, threads, runs at a time; empty: not told
  std::string certificate;  // "passed", "failed" or empty
  std::string message;      // of a run that diverged
  std::vector<LengthResults> lengths;
  std::vector<TaskResults> tasks;

  std::vector<CurvePoint> curve;               // at most kMostCurvePoints
  std::vector<ValidationMetrics> validations;  // likewise, evenly chosen, the last among them
  std::string sample;                          // its start
  std::string recipe;                          // run.toml
  Value settings;                              // the same, read

  std::string axis(std::string_view name) const;  // empty when there is none
  int64_t trained_length() const;                 // of the axis "length"; 0 without it
  // What it is a run of: the variant, and every axis but length, seed and lr_factor.
  std::string series() const;
  // Whether its figures may stand for its series: it is planned, finished and did not fail its certificate.
  bool counts() const { return planned && status == Status::finished && certificate != "failed"; }
  std::string why_not() const;  // in a few words, when it does not count
};

inline constexpr size_t kMostCurvePoints = 120;

struct ExperimentResults {
  std::string folder;  // as given
  bool plain = false;  // training runs by themselves, each a series of its own
  std::string name, scale, title, question, date, build;
  std::string measured_on;  // names of texts, for people; empty: not told
  // Of the machine: what the experiment wrote, in its order, as texts.
  std::vector<std::pair<std::string, Value>> machine;
  std::vector<std::pair<std::string, std::string>> pairs;  // series that are compared
  std::string reference = "bits_per_byte";                 // or "bits_per_token", "accuracy"
  std::vector<std::string> planned;                        // ids; empty: not told
  std::vector<RunResults> runs;                            // by id, those that are not begun among them

  // Whether it is one of the plan of which it is known what it is a run of: in an experiment its result
  // tells.
  bool is_placed(const RunResults& run) const {
    return run.planned && (plain || run.status == RunResults::Status::finished ||
                           run.status == RunResults::Status::diverged);
  }
  // The series of the runs that are placed: those of `pairs` first, then as they come.
  std::vector<std::string> series() const;
};

// The parts by themselves: a run's result.json; an experiment.json, without its runs. Throw Error as below.
RunResults read_run_result(const std::filesystem::path& path);
ExperimentResults read_experiment_description(const std::filesystem::path& path);

// Reads the folders: of experiments one by one, and training runs together as one that is plain and comes
// last. Throws Error naming the file, what was expected and what to do.
std::vector<ExperimentResults> read_results(const std::vector<std::filesystem::path>& folders);

// At most `most` points, each the mean of as many neighbours; figures that are not finite are left out.
std::vector<CurvePoint> thinned(const std::vector<StepMetrics>& steps, size_t most);

}  // namespace harmonic
