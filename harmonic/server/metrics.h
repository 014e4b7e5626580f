// Numbers about a server's work, in the text form that Prometheus reads.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace harmonic {

// Seconds, in buckets. Any thread may add.
class Histogram {
 public:
  void add(double seconds);
  // Lines of the metric `name`.
  std::string text(const std::string& name, const std::string& help) const;

 private:
  static constexpr std::array<double, 15> kBounds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                     0.25,   0.5,   1,      2.5,   5,    10,    60};
  std::array<std::atomic<int64_t>, kBounds.size() + 1> counts_{};
  std::atomic<int64_t> microseconds_{0};
};

struct Metrics {
  Histogram time_to_first_token, between_tokens, queue_wait, request;
  std::atomic<int64_t> prompt_tokens{0}, cached_tokens{0}, written_tokens{0}, cache_hits{0}, cache_misses{0};

  void count_status(const std::string& route, int status);
  std::string text() const;  // all of the above

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> statuses_;
};

// Lines of one metric with one number.
std::string metric_text(const std::string& name, const std::string& help, const char* type, double value);

}  // namespace harmonic
