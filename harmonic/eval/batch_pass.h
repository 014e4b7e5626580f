// Passes over a batch in bounded memory: what a pass takes, and the pieces that a batch is cut into.
#pragma once

#include <algorithm>

#include "harmonic/base/checked.h"
#include "harmonic/data/batch.h"
#include "harmonic/model/model.h"

namespace harmonic {

// Rows of a batch that go through the model together. The segments at its ends may be parts of the batch's.
struct BatchPiece {
  int64_t begin = 0;          // its first row in the batch
  int64_t first_segment = 0;  // of the batch: the one that row belongs to
  Segments segments;          // their rows count from `begin`
  bool cut_before = false;    // the first segment began before the piece
  bool cut_after = false;     // the last one goes on after it
};

// Rows [begin, end), at least one; the offsets of the segments lie in `memory`.
BatchPiece piece_of(const Batch& batch, int64_t begin, int64_t end, Arena& memory);

// The memory that a pass takes at most: so much for each row and, for its states and whatever else each text
// has of its own, so much for each segment. In bytes.
struct PassCost {
  int64_t row = 0, segment = 0;
  int64_t of(int64_t rows, int64_t segments) const { return rows * row + segments * segment; }
  // The end of the longest piece that begins at row `begin`, ends at `end` at the latest and takes at most
  // `bytes`; but it has at least one row.
  int64_t piece_end(const Batch& batch, int64_t begin, int64_t end, int64_t bytes) const;
};

// What passes of the model take, measured and not computed: memory depends on the configuration alone.
// pass(batch, position) is to run one over a batch without targets, whose segments all stand at `position` of
// their texts, and to return the bytes it took. A text may have `longest` tokens at most, 0 is what the model
// takes.
template <typename Pass>
PassCost measure_pass_cost(const Model& model, const Pass& pass, int64_t longest = 0) {
  const int64_t slowest = model.strides().back();
  const auto bytes_of = [&](int64_t segments, int64_t length, int64_t position) {
    Batch batch;
    batch.tokens.assign(static_cast<size_t>(segments * length), 0);
    batch.targets.assign(batch.tokens.size(), -1);
    batch.sequences = segments;
    for (int64_t s = 0; s <= segments; ++s) batch.offsets.push_back(s * length);
    for (int64_t s = 0; s < segments; ++s) batch.segments.push_back({s, 0, false});
    return pass(batch, position);
  };
  // Odd, so that no two levels have tensors of one size, which would share memory.
  int64_t rows = std::clamp<int64_t>(slowest, 256, 1024) + 1;
  for (const int64_t limit : {model.config().longest_text(), longest})
    if (limit > 0) rows = std::min(rows, limit);
  constexpr int64_t kTexts = 64;
  // A text of one token at the end of a block of every level has the most that a text has beside its rows.
  return {ceil_div(bytes_of(1, rows, 0), rows), ceil_div(bytes_of(kTexts, 1, slowest - 1), kTexts)};
}

}  // namespace harmonic
