// Timing for the benchmarks: repeated calls, and the median of their times as the figure.
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
  double median, fastest, slowest;  // seconds
};

inline Times summary_of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

// Times of a call, after one that does not count, over at least nine runs and 0.15 seconds. The median is the
// figure; the fastest tells, on a machine with other work, what the call does when it has the processors to
// itself.
template <typename Call>
Times measure(const Call& call) {
  call();
  std::vector<double> seconds;
  for (double total = 0; seconds.size() < 9 || (total < 0.15 && seconds.size() < 2000);) {
    seconds.push_back(seconds_of(call));
    total += seconds.back();
  }
  return summary_of(std::move(seconds));
}

}  // namespace harmonic
