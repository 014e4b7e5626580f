// Loss against context on the same targets: what a model gains, or loses, by text farther back.
#pragma once

#include <cstdint>
#include <vector>

#include "harmonic/data/token_corpus.h"
#include "harmonic/eval/evaluation.h"

namespace harmonic {

struct ContextOptions {
  std::vector<int64_t> contexts = {128, 512};  // tokens of the texts that end with a group
  int64_t group = 64;                          // adjacent targets that share a context
  int64_t groups = 0;   // at most, evenly over the corpus; 0 is as many as there is room
  int64_t longest = 0;  // of which the targets depend; 0 is the longest of contexts
  bool show_progress = false;
};

// Throws Error (usage) when a context is no longer than a group or than the corpus allows.
void check_contexts(const TokenCorpus& corpus, const ContextOptions& options);

// Bits of the targets of all groups by context, in the order of `contexts`. Each group is fed as one text
// from `context` tokens before its end on, whatever the borders of documents within, from a zero state: a
// target has at least context - group + 1 tokens before it, and the longest text is `context` tokens. The
// targets are the same at every context: the longest decides where there is room. Throws what check_contexts
// does, and Interrupted.
std::vector<TargetBits> bits_by_context(Inference& inference, const TokenCorpus& corpus,
                                        const ContextOptions& options);

}  // namespace harmonic
