// Evaluation: the whole token stream of a split, each target scored exactly once at every length.
#pragma once

#include <cstdint>
#include <vector>

#include "harmonic/data/batch.h"
#include "harmonic/data/token_corpus.h"

namespace harmonic {

enum class EvaluationState {
  cold,   // the state is zero at the start of each window, and of each document
  carry,  // the state is zero at the start of each document only
};
// "cold" or "carry"; throws Error (usage) for another name.
EvaluationState evaluation_state_of(std::string_view name);

// Cuts the positions [0, N - 1) of the stream into pieces of `length` (the last may be shorter) and hands
// them out, `batch_size` sequences a batch. Documents that start inside a piece start segments. cold: the
// pieces are adjacent windows, in order; sequence b of a batch is simply its b-th window. carry: the stream
// is first shared out among `batch_size` lanes at document starts, about evenly, and sequence b of every
// batch is the next piece of lane b; its first segment `continues` where the lane's state goes on. A lane
// that has come to its end has no segments in the batches that remain. With batch_size 1 it is the stream in
// order. Not thread-safe; the corpus is shared, not copied.
class EvaluationWindows {
 public:
  // Throws Error (usage) for a length or batch size below 1.
  EvaluationWindows(TokenCorpus corpus, int64_t length, EvaluationState state, int64_t batch_size);

  // The next batch, or null after the last one. It lives in this object until the next call.
  const Batch* next();
  // Starts over.
  void restart();
  // Targets in all batches together, and the source bytes they stand for.
  int64_t targets() const { return corpus_.targets(); }
  int64_t source_bytes() const { return corpus_.source_bytes(); }

 private:
  TokenCorpus corpus_;
  int64_t length_, batch_size_;
  EvaluationState state_;
  std::vector<int64_t> lane_begin_;  // carry: [batch_size + 1] positions
  std::vector<int64_t> position_;    // of each lane; cold: of the next window alone
  Batch batch_;
};

}  // namespace harmonic
