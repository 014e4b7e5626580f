// A batch as the model takes it: rows of tokens in segments, each the piece of one text that shares a state.
#pragma once

#include <cstdint>
#include <vector>

#include "harmonic/data/token_corpus.h"

namespace harmonic {

// B sequences, the rows of one after the rows of the other, each cut into one or more segments. A document
// that starts inside a sequence starts a segment with a zero state; nothing is padded or aligned. Segments
// are in the order of their sequences. The vectors are reused from batch to batch.
struct Batch {
  std::vector<int32_t> tokens;   // [rows] inputs
  std::vector<int32_t> targets;  // [rows] the token to predict after each, -1 where none counts
  std::vector<int64_t> offsets;  // [segments + 1] segment s owns rows [offsets[s], offsets[s + 1])
  struct Segment {
    int64_t sequence;  // b, in [0, sequences)
    int64_t position;  // in the corpus, of its first token
    bool continues;    // starts from the state sequence b was left in (only its first segment may), otherwise
                       // from zero
  };
  std::vector<Segment> segments;
  int64_t sequences = 0;
  int64_t target_count = 0;  // targets that are not -1

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }

  void clear();
  // Opens the next sequence, without rows yet.
  void add_sequence() { ++sequences; }
  // Appends the positions [position, position + count) of the stream, each with the token after it as its
  // target, to the last sequence: position + count must be below corpus.tokens(). Where another token than
  // the EOT begins texts, it stands in place of the EOT that leads a document, but not as a target. They
  // start a segment, which continues or not, except that a document start never continues. With
  // `cut_at_documents` each document start inside opens another.
  void append(const TokenCorpus& corpus, int64_t position, int64_t count, bool continues,
              bool cut_at_documents);
};

}  // namespace harmonic
