// How surprising the lines of a text are: sums over the tokens that begin in each.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace harmonic {

struct LineScore {
  int64_t line = 0;  // from 1
  int64_t bytes = 0;
  double bits = 0;
  std::string text;  // the line, or as much of it as is kept

  double bits_per_byte() const { return bits / static_cast<double>(bytes); }
};

// A token that reaches into the next line counts for the line it begins in. A value: copied to be kept and
// gone on with.
class LineScores {
 public:
  using Use = std::function<void(const LineScore&)>;

  // `kept`: bytes of a line's text; 0 keeps none.
  explicit LineScores(size_t kept = 0) : kept_(kept) {}

  // The next token: use(line) is called for each line that it ends.
  void add(std::string_view bytes, double bits, const Use& use);
  // The text ends: its last line ends too, where it has begun.
  void finish(const Use& use);

  // The line at hand, which has not ended; `line` counts those that have.
  const LineScore& open() const { return open_; }
  void go_on_with(LineScore open) { open_ = std::move(open); }

 private:
  void take(std::string_view bytes);
  void report(const Use& use);

  size_t kept_;
  LineScore open_;
};

// Which of a stream of numbers stand out: how many standard deviations each is above the mean of those before
// it, of which late ones count as much as early ones up to kMemory of them, and more beyond. A value.
class OutlierScore {
 public:
  static constexpr int64_t kFewest = 30;  // numbers before any stands out
  static constexpr int64_t kMemory = 1000;

  // The deviations of `value`, which then belongs to those before. None for the first kFewest.
  std::optional<double> next(double value);

  int64_t count = 0;
  double mean = 0, variance = 0;
};

}  // namespace harmonic
