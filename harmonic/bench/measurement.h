// bench: what this machine does with models, beside what it could do. Every figure is a median of repeated
// runs, comes after a check against the definition, and stands beside peaks measured in the same run.
//
// Timing: repeated calls, and the median of their times as the figure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace harmonic {

template <typename Call>
double seconds_of(const Call& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Times {
  double median = 0, fastest = 0, slowest = 0;  // seconds
  // How far the runs lie apart, as a share of the median.
  double spread() const { return median > 0 ? (slowest - fastest) / median : 0; }
};

inline Times summary_of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

// Times of a call, after one that does not count, over at least `runs` runs and `least_seconds`. The median
// is the figure; the fastest tells, on a machine with other work, what the call does when it has the
// processors to itself.
template <typename Call>
Times measure(const Call& call, int64_t runs = 9, double least_seconds = 0.15) {
  constexpr size_t kMostRuns = 2000;
  call();
  std::vector<double> seconds;
  for (double total = 0; static_cast<int64_t>(seconds.size()) < runs ||
                         (total < least_seconds && seconds.size() < kMostRuns);) {
    seconds.push_back(seconds_of(call));
    total += seconds.back();
  }
  return summary_of(std::move(seconds));
}

}  // namespace harmonic
