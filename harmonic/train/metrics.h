// metrics.jsonl: how a run goes, a JSON object a line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "harmonic/train/event_file.h"

namespace harmonic {

struct StepMetrics {
  int64_t step = 0, tokens = 0;  // tokens: targets seen since the run began
  double loss = 0;               // of the step, in the objective's unit: nats a target, or a ratio
  double bits_per_byte = 0;      // the same by the corpus's bytes a token; NaN where it is not in nats
  double lr = 0, grad_norm = 0;
  double tokens_per_second = 0;  // since the line before
  int64_t peak_memory_bytes = 0;
  double seconds = 0;  // of training since the run began
};

struct ValidationMetrics {
  int64_t step = 0, tokens = 0;
  double bits_per_token = 0, bits_per_byte = 0;
  double seconds = 0;
};

struct Metrics {
  std::vector<StepMetrics> steps;
  std::vector<ValidationMetrics> validations;
};

// A whole file, in its order; what is null there is NaN. A last line without its end is passed over, as a
// resumed run would remove it. Throws Error naming the line that is neither kind.
Metrics read_metrics(const std::filesystem::path& path);

// The median of the steps' tokens a second, without the first step, in which the machine warms up, where
// there are others; of an even number of steps the greater of the two in the middle. 0 without any.
double median_speed(const std::vector<StepMetrics>& steps);

// The metrics.jsonl of a run's folder. Not thread-safe.
class MetricsFile {
 public:
  // Opens the file, made if need be, and drops every line after step `last_step` and whatever is not a whole
  // line: a resumed run takes those steps again. With `events` TensorBoard gets the numbers too, in a file of
  // its own (event_file.h). Throws Error.
  MetricsFile(const std::filesystem::path& folder, int64_t last_step, bool events);

  void append(const StepMetrics& metrics);
  void append(const ValidationMetrics& metrics);
  // Whether the last validation line kept or written is of this step.
  bool validated_at(int64_t step) const { return validated_ == step; }

 private:
  int64_t validated_;
  AppendFile lines_;
  std::optional<EventFile> events_;
};

}  // namespace harmonic
