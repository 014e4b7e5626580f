// What an experiment measured, put together by series and place over its seeds, and compared in pairs. Only
// runs that count (results.h) and are no tuning are in it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "harmonic/experiment/results.h"
#include "harmonic/experiment/statistics.h"

namespace harmonic {

enum class Figure { bits_per_byte, bits_per_token, accuracy };
Figure reference_figure(const ExperimentResults& experiment);
std::string figure_name(Figure figure);  // "bits per byte"
bool lower_is_better(Figure figure);

// Where a figure was measured: an evaluation at a length, or a group of a task.
struct Place {
  int64_t trained = 0;      // tokens a sequence in training; 0: the runs do not tell
  int64_t length = 0;       // tokens a window in the evaluation; 0: it is a task
  std::string state;        // "cold" or "carry"; empty: it is a task
  std::string task, group;  // empty: it is an evaluation

  bool operator==(const Place&) const = default;
  // Evaluated as it was trained.
  bool at_own_length() const { return trained == 0 || length == 0 || length == trained; }
  std::string text() const;  // "4K", "trained at 4K, read at 16K, state carried", "recall 64"
};
// By lengths, then by tasks; groups that are numbers by their numbers.
bool operator<(const Place& a, const Place& b);
bool group_less(const std::string& a, const std::string& b);

struct Measured {
  std::string series;
  Place place;
  std::vector<std::pair<std::string, double>> by_seed;  // rising by seed
  Summary summary() const;
};

// All of them, by place and then in the order of the experiment's series.
std::vector<Measured> measured(const ExperimentResults& experiment, Figure figure);
// What answers the experiment's question: those evaluated as they were trained, with a cold state where there
// is one; all of them when there are no such.
std::vector<Measured> main_measured(const ExperimentResults& experiment, Figure figure);

struct Comparison {
  std::string first, second;
  Place place;
  std::vector<std::string> seeds;  // in common
  PairedDifference paired;         // first - second
};
// "lower in 4 of 5": the seeds at which the first was better.
std::string better_text(const Comparison& comparison, Figure figure);
// For each of the experiment's pairs, where both were measured with a seed in common.
std::vector<Comparison> comparisons(const ExperimentResults& experiment,
                                    const std::vector<Measured>& measurements);

// What the state is worth that is carried from window to window, with the same weights: where a series was
// measured both ways, "NAME, carried" less "NAME, cold".
std::vector<Comparison> carried_against_cold(const ExperimentResults& experiment, Figure figure);

// Bits per token along a text, over the seeds of a series: by ranges of places, or by phases (from = to).
struct LossProfile {
  struct Bin {
    int64_t from = 0, to = 0;
    Summary bits;
    Summary above_mean;  // each run's bits less its mean over the bins: what seeds share of a level cancels
  };
  std::string series;
  Place place;
  std::vector<Bin> bins;
};
// At the lengths of training; of runs that do not tell theirs, at the longest evaluated.
std::vector<LossProfile> losses_by_context(const ExperimentResults& experiment);
std::vector<LossProfile> losses_by_phase(const ExperimentResults& experiment);

// The learning rates that a series was tuned over.
struct TuningGrid {
  struct Tried {
    std::string factor;
    bool diverged = false;  // with any seed: a mean of the others would flatter the rate
    Summary bits_per_byte;  // held out; at the length of training, else the last on the way
  };
  std::string series;
  int64_t trained = 0;
  std::vector<Tried> tried;         // rising
  std::vector<std::string> chosen;  // what the runs of the comparison were trained with
};
std::vector<TuningGrid> tuning_grids(const ExperimentResults& experiment);

// What the figures say of each pair, a headline and a line a place, and what was left out: in words, with
// every number from the data.
struct Finding {
  std::string headline;
  std::vector<std::string> lines;
  bool left_out = false;  // it is the list of runs that are in no mean
};
std::vector<Finding> findings(const ExperimentResults& experiment);

}  // namespace harmonic
