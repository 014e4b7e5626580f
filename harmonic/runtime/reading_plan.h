// How much of their prompts the texts of a batch read in a step, so that nobody waits long for another's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace harmonic {

// A short prompt is read at once. Long ones get what is left to them: few rows while somebody waits for a
// first token, about as much time as the writing takes while others write, and `most_seconds` a step while
// nobody else is there, so that whoever comes waits no longer than that. Of what long ones get, the one with
// the least left has half. The pieces change no bit, so that they may follow the clock. Not thread-safe.
class ReadingPlan {
 public:
  static constexpr int64_t kShort = 64;         // tokens
  static constexpr int64_t kBesideFirst = 4;    // rows of long prompts beside a text before its first token
  static constexpr int64_t kBesideWriters = 8;  // at least
  static constexpr int64_t kAlone = 32;         // at least: fewer rows cost more for each

  // most_rows: that a step may read in all.
  ReadingPlan(double most_seconds, int64_t most_rows) : most_seconds_(most_seconds), most_rows_(most_rows) {}

  // The rows of each reader, at least 1 and at most the tokens that it has left. `writers` write in the same
  // step, `first` of them their first token.
  void divide(std::span<const int64_t> left, int64_t writers, int64_t first,
              std::vector<int64_t>& rows) const;

  // A step took so long.
  void learn(int64_t read, int64_t writers, double seconds);

 private:
  int64_t rows_of_long_ones(int64_t writers, bool somebody_waits) const;

  const double most_seconds_;
  const int64_t most_rows_;
  double seconds_a_row_ = 0;     // of reading; 0: not known yet
  double seconds_to_write_ = 0;  // of a step without reading
};

}  // namespace harmonic
