#include "harmonic/runtime/reading_plan.h"

#include <algorithm>
#include <numeric>

namespace harmonic {
namespace {

// What is seen now weighs so much against what was seen before.
constexpr double kNew = 0.3;

void follow(double& value, double now) { value = value > 0 ? (1 - kNew) * value + kNew * now : now; }

}  // namespace

void ReadingPlan::learn(int64_t read, int64_t writers, double seconds) {
  if (read == 0) {
    follow(seconds_to_write_, seconds);
  } else if (read >= kBesideWriters) {
    follow(seconds_a_row_, seconds / static_cast<double>(read + writers));
  }
}

int64_t ReadingPlan::rows_of_long_ones(int64_t writers, bool somebody_waits) const {
  if (somebody_waits) return kBesideFirst;
  const int64_t least = writers > 0 ? kBesideWriters : kAlone;
  if (seconds_a_row_ == 0) return least;
  const double seconds = writers > 0 ? std::min(most_seconds_, seconds_to_write_) : most_seconds_;
  return std::max(least, static_cast<int64_t>(std::min(seconds / seconds_a_row_, 1e6)));
}

void ReadingPlan::divide(std::span<const int64_t> left, int64_t writers, int64_t first,
                         std::vector<int64_t>& rows) const {
  rows.assign(left.size(), 1);
  std::vector<size_t> order(left.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return left[a] < left[b]; });
  // One is everybody's; the rest goes to those with the least left first.
  int64_t room = std::max<int64_t>(0, most_rows_ - static_cast<int64_t>(left.size()));
  const auto give = [&](size_t reader, int64_t most) {
    const int64_t more = std::clamp<int64_t>(most - rows[reader], 0, room);
    rows[reader] += more;
    room -= more;
  };
  size_t at = 0;
  for (; at < order.size() && left[order[at]] <= kShort; ++at) give(order[at], left[order[at]]);
  if (at == order.size()) return;
  int64_t budget = rows_of_long_ones(writers, at > 0 || first > 0);
  for (; at < order.size(); ++at) {
    const auto others = static_cast<int64_t>(order.size() - at - 1);
    const int64_t share = others > 0 ? (budget + 1) / 2 : budget;
    give(order[at], std::min(left[order[at]], share));
    budget -= share;
  }
}

}  // namespace harmonic
