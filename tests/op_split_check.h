// Any split gives the same bits: an op over whole sequences in one call against the same op over pieces of
// them in consecutive calls, the state handed on.
#pragma once

#include <functional>
#include <vector>

#include "op_check.h"

namespace harmonic {

// The rows that one call of an op covers: a run of rows of the matrix that holds all sequences.
struct Piece {
  int64_t first_row = 0;           // in that matrix
  int64_t first_sequence = 0;      // the sequences it covers: this one and on
  std::vector<int64_t> lengths;    // rows of each of them in this call
  std::vector<int64_t> positions;  // rows of each of them in earlier calls
  int64_t rows() const { return total(lengths); }
  // Of another matrix that holds whole sequences, the rows that stand for `tensor`'s.
  Tensor of(const Tensor& tensor) const { return tensor.rows_of(first_row, rows()); }

  // For tensors of blocks of `ratio` rows: how many blocks each sequence closes here, and its first one in
  // the matrix that holds the blocks of all sequences.
  std::vector<int64_t> blocks_closed(int64_t ratio) const {
    std::vector<int64_t> result;
    for (size_t i = 0; i < lengths.size(); ++i)
      result.push_back((positions[i] + lengths[i]) / ratio - positions[i] / ratio);
    return result;
  }
  std::vector<int64_t> phases(int64_t ratio) const {
    std::vector<int64_t> result;
    for (const int64_t position : positions) result.push_back(position % ratio);
    return result;
  }
};

// Runs the op on a piece. The states have a row for each of its sequences.
using PieceBody = std::function<void(Trial&, const Piece&, const Tensor& state_in, const Tensor& state_out)>;

inline const std::vector<int64_t>& split_lengths() {
  static const std::vector<int64_t> lengths = {130, 0, 67, 1, 300};
  return lengths;
}

inline int64_t split_rows() { return total(split_lengths()); }
// Blocks that the sequences before `sequence` close.
inline int64_t first_block(int64_t sequence, int64_t ratio) {
  int64_t blocks = 0;
  for (int64_t b = 0; b < sequence; ++b) blocks += split_lengths()[static_cast<size_t>(b)] / ratio;
  return blocks;
}

inline void copy_row(const Tensor& from, int64_t from_row, const Tensor& to, int64_t to_row) {
  std::memcpy(to.rows_of(to_row, 1).data, from.rows_of(from_row, 1).data,
              static_cast<size_t>(from.cols * size_of(from.dtype)));
}

// The body writes outputs that hold all sequences, whichever piece it is given. `state_columns` may be 0:
// that rows do not depend on the rows beside them. On the cpu backend, with 1 and 2 threads.
inline void expect_any_split_gives_the_same_bits(int64_t state_columns, const PieceBody& body) {
  const std::vector<int64_t>& lengths = split_lengths();
  const auto sequences = static_cast<int64_t>(lengths.size());
  Trial whole(cpu_backend(), 2);
  body(whole, {0, 0, lengths, std::vector<int64_t>(lengths.size(), 0)},
       whole.input("state_in", sequences, state_columns),
       whole.output("state_out", sequences, state_columns));

  // Pieces of up to `longest` rows, empty ones among them.
  for (const int64_t longest : {1, 3, 17, 64, 500}) {
    Trial split(cpu_backend(), longest % 2 + 1);
    const Tensor state_in = split.input("state_in", sequences, state_columns);
    const Tensor state_out = split.output("state_out", sequences, state_columns);
    Tensor before = split.temporary(1, state_columns), after = split.temporary(1, state_columns);
    const Random random(3, static_cast<uint64_t>(longest));
    uint64_t drawn = 0;
    int64_t row = 0;
    for (int64_t b = 0; b < sequences; ++b) {
      copy_row(state_in, b, before, 0);
      const int64_t length = lengths[static_cast<size_t>(b)];
      int64_t position = 0;
      do {
        const auto draw = static_cast<int64_t>(random.below(drawn++, static_cast<uint64_t>(longest) + 1));
        const int64_t count = std::min(length - position, draw);
        body(split, {row, b, {count}, {position}}, before, after);
        position += count;
        row += count;
        std::swap(before, after);
      } while (position < length);
      copy_row(before, 0, state_out, b);
    }
    split.expect_only_outputs_written();
    for (const std::string& name : whole.outputs())
      EXPECT_TRUE(split.bits(name) == whole.bits(name))
          << name << " in pieces of up to " << longest << " rows";
  }
}

}  // namespace harmonic
