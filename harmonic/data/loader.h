// Loaders: which pieces of a corpus make up the batch of each step.
//
// A batch is a function of the corpus, the configuration and the step alone, so that the position of a
// training run is the number of its step, and any step can be asked for at any time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "harmonic/data/batch.h"
#include "harmonic/data/token_corpus.h"

namespace harmonic {

enum class LoaderKind {
  // Each sequence is a window of T inputs at a uniformly random position of the stream. Its first segment
  // starts with
  // a zero state, mostly in the middle of a document; documents that start inside it start segments.
  windows,
  // Whole documents, in an order drawn anew each epoch, as many to a sequence as fit into T, each a segment.
  // Documents
  // longer than T are split into pieces of T and a rest, each fed in its own place of the order with a zero
  // state, so
  // that an epoch scores every target of the corpus exactly once. Sequences are rarely quite full; there is
  // no padding.
  documents,
  // B contiguous streams that carry their state from step to step: stream b starts at b/B of the corpus,
  // advances T
  // positions a step, and goes round at the end. Documents start segments. At step 0 nothing is continued.
  streams,
};
// "windows", "documents", "streams"; throws Error (usage) for another name.
LoaderKind loader_kind_of(std::string_view name);

struct LoaderConfig {
  LoaderKind kind = LoaderKind::windows;
  int64_t seq_len = 1024;  // T, at least 1
  int64_t batch_size = 8;  // B, at least 1
  uint64_t seed = 1;
  // windows only: each lies inside one document. Documents shorter than T are joined with those that follow,
  // without a reset between them, and then windows start anywhere in them; all possible starts are equally
  // likely.
  bool within_document = false;
};

// Not thread-safe; the corpus is shared, not copied.
class Loader {
 public:
  virtual ~Loader() = default;
  // The batch of `step` >= 0. It lives in the loader until the next call.
  virtual const Batch& next(int64_t step) = 0;
  // What a person should know about how the corpus is used, e.g. that books are joined; empty when nothing.
  virtual std::string remark() const { return {}; }
};

// Throws Error when the corpus is shorter than one window (windows), or the configuration makes no sense.
std::unique_ptr<Loader> make_loader(TokenCorpus corpus, const LoaderConfig& config);

}  // namespace harmonic
