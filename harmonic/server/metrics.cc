#include "harmonic/server/metrics.h"

#include <fmt/format.h>

namespace harmonic {

void Histogram::add(double seconds) {
  size_t bucket = 0;
  while (bucket < kBounds.size() && seconds > kBounds[bucket]) ++bucket;
  ++counts_[bucket];
  microseconds_ += static_cast<int64_t>(seconds * 1e6);
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
  std::string out = fmt::format("# HELP {} {}\n# TYPE {} histogram\n", name, help, name);
  int64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name,
                       i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf", total);
  }
  return out +
         fmt::format("{}_sum {}\n{}_count {}\n", name, static_cast<double>(microseconds_) / 1e6, name, total);
}

void Metrics::count_status(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++statuses_[{route, status}];
}

std::string metric_text(const std::string& name, const std::string& help, const char* type, double value) {
  return fmt::format("# HELP {} {}\n# TYPE {} {}\n{} {}\n", name, help, name, type, name, value);
}

std::string Metrics::text() const {
  std::string out =
      time_to_first_token.text("harmonic_time_to_first_token_seconds",
                               "From when a request has been read to its first token.") +
      between_tokens.text("harmonic_between_tokens_seconds", "Between the tokens of a text.") +
      queue_wait.text("harmonic_queue_wait_seconds", "Of a text, before its first step.") +
      request.text("harmonic_request_seconds", "Of a request, from its coming to the end of its answer.");
  const auto counter = [&](const char* name, const char* help, int64_t value) {
    out += metric_text(name, help, "counter", static_cast<double>(value));
  };
  counter("harmonic_prompt_tokens_total", "Tokens of prompts.", prompt_tokens);
  counter("harmonic_cached_prompt_tokens_total", "Those whose state was kept.", cached_tokens);
  counter("harmonic_written_tokens_total", "Tokens that were written.", written_tokens);
  counter("harmonic_cache_hits_total", "Prompts that begin as one whose state was kept.", cache_hits);
  counter("harmonic_cache_misses_total", "Prompts that do not.", cache_misses);
  out +=
      "# HELP harmonic_requests_total Requests by route and status.\n# TYPE harmonic_requests_total "
      "counter\n";
  const std::lock_guard lock(mutex_);
  for (const auto& [key, count] : statuses_)
    out += fmt::format("harmonic_requests_total{{route=\"{}\",status=\"{}\"}} {}\n", key.first, key.second,
                       count);
  return out;
}

}  // namespace harmonic
