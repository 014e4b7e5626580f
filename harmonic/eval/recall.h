// Recall by distance: how far back a model still knows a value that it was told, among so many others.
#pragma once

#include <vector>

#include "harmonic/data/recall_text.h"
#include "harmonic/eval/task.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

struct RecallOptions {
  std::vector<int64_t> pairs = {1, 2, 4};                  // 1: a passkey
  std::vector<int64_t> distances = {64, 256, 1024, 4096};  // bytes of text: the same for every tokenizer
  int64_t examples = 200;                                  // of each
  uint64_t seed = 1;
};

// A group for each number of pairs and each distance, whose examples do not depend on what else is asked for.
class RecallTask : public Task {
 public:
  // The tokenizer must outlive it. Throws Error (usage) when a distance has no room for its pairs.
  RecallTask(RecallOptions options, RecallText text, const Tokenizer& tokenizer);

  std::vector<TaskGroup> groups() const override;  // "passkey at 64", "4 pairs at 64"
  int64_t examples() const override { return all_; }
  bool next(TaskExample& example) override;

 private:
  RecallOptions options_;
  RecallText text_;
  const Tokenizer& tokenizer_;
  int64_t all_ = 0, next_ = 0;
};

}  // namespace harmonic
