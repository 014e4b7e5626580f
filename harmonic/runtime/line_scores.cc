#include "harmonic/runtime/line_scores.h"

#include <algorithm>
#include <cmath>

namespace harmonic {

void LineScores::take(std::string_view bytes) {
  open_.bytes += static_cast<int64_t>(bytes.size());
  if (open_.text.size() < kept_) open_.text += bytes.substr(0, kept_);
}

void LineScores::report(const Use& use) {
  ++open_.line;
  use(open_);
  open_ = {open_.line, 0, 0, {}};
}

void LineScores::add(std::string_view bytes, double bits, const Use& use) {
  open_.bits += bits;
  for (size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
    take(bytes.substr(0, end + 1));
    report(use);
  }
  take(bytes);
}

void LineScores::finish(const Use& use) {
  if (open_.bytes > 0) report(use);
}

std::optional<double> OutlierScore::next(double value) {
  const double deviation = std::sqrt(variance);
  std::optional<double> score;
  if (count >= kFewest) score = deviation > 0 ? (value - mean) / deviation : 0;
  count = std::min(count + 1, kMemory);
  const double share = 1 / static_cast<double>(count), away = value - mean;
  mean += share * away;
  variance = (1 - share) * (variance + share * away * away);
  return score;
}

}  // namespace harmonic
