// Tasks: examples that a model completes, right or wrong, and what the right completion costs it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harmonic/model/inference.h"

namespace harmonic {

struct TaskExample {
  std::vector<int32_t> prefix;  // tokens, the leading end-of-text token among them
  std::vector<int32_t> target;  // that are to follow, at least one
  size_t group = 0;             // examples of one group are counted together
};

struct TaskGroup {
  std::string name;
  double chance = 0;  // accuracy of the best guess without the memory that is asked for; 0: not known
};

// Where examples come from, one at a time. Not thread-safe.
// Those of `harmonic eval --task` besides "text".
inline const std::vector<std::string> kTaskNames = {"lambada", "recall"};

class Task {
 public:
  virtual ~Task() = default;
  virtual std::vector<TaskGroup> groups() const = 0;  // the same at any time; at least one
  // How many examples there are, for progress; 0 when that shows at the end only.
  virtual int64_t examples() const { return 0; }
  // Replaces `example`; false when there are no more.
  virtual bool next(TaskExample& example) = 0;
};

struct TaskResult {
  TaskGroup group;
  int64_t examples = 0;
  int64_t correct = 0;         // every token of the target is the likeliest after those before it
  int64_t context_tokens = 0;  // before the targets, of all examples together
  double bits = 0;             // of all targets together; nan or infinite when a loss was

  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(examples); }
  double bits_per_target() const { return bits / static_cast<double>(examples); }
  double context_per_example() const {
    return static_cast<double>(context_tokens) / static_cast<double>(examples);
  }
  double perplexity() const;  // of a target: 2^bits_per_target()
};

struct TaskOptions {
  int64_t batch_size = 0;  // examples at a time; 0 is as many as compute well together
  bool show_progress = false;
};

// A result for each group that has examples, in the order of groups(). The same bits whatever the batch size
// and the number of threads. Memory: the tokens of the examples at hand, and what a pass takes, whatever
// their length. Of tokens equally likely the one with the smallest number counts as the likeliest. Throws
// what the task throws, and Interrupted when the program is asked to stop.
std::vector<TaskResult> run_task(Inference& inference, Task& task, const TaskOptions& options = {});

}  // namespace harmonic
