// LAMBADA (Paperno et al., 2016): the last word of a passage that is hard to guess without all of it.
#pragma once

#include <string>
#include <vector>

#include "harmonic/data/document_reader.h"
#include "harmonic/eval/task.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// An example is a document: the target is what follows its last space, with that space, and the prefix all
// that comes before; white space at the document's end is left out. That is where lm-eval divides them, so
// that figures are comparable. Tokenised apart, which gives the tokens of the whole: every tokenizer that
// there is divides a text before a space that follows none.
class LambadaTask : public Task {
 public:
  // The tokenizer must outlive it. Throws as DocumentSource does.
  LambadaTask(const std::vector<std::string>& inputs, const ReaderOptions& reader,
              const Tokenizer& tokenizer);

  std::vector<TaskGroup> groups() const override { return {{"all"}}; }
  // Throws Error for a document of a single word.
  bool next(TaskExample& example) override;

 private:
  std::vector<std::string> inputs_;
  DocumentSource source_;
  const Tokenizer& tokenizer_;
  std::string document_;
  int64_t number_ = 0;  // of document_, from 1
};

}  // namespace harmonic
