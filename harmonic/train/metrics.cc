#include "harmonic/train/metrics.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"

namespace harmonic {
namespace {

// Shortest text that reads back as the same number; JSON has none for what is not finite.
std::string number(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "null"; }

// The step of a line; -1 for what is no line of ours.
int64_t step_of(std::string_view line, bool* validation) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return -1;
  *validation = json.contains("valid_bits_per_byte");
  return json["step"];
}

constexpr int64_t kLargestFile = int64_t{1} << 34;

// The numbers of a line by their keys.
class Line {
 public:
  Line(const Json& json, const std::filesystem::path& path, int64_t number)
      : json_(json), path_(path), number_(number) {
    if (!json.is_object()) wrong("a JSON object");
  }
  bool has(const char* key) const { return json_.contains(key); }
  int64_t integer(const char* key) const {
    const auto entry = json_.find(key);
    if (entry == json_.end() || !entry->is_number_integer()) wrong(fmt::format("a whole number \"{}\"", key));
    return entry->get<int64_t>();
  }
  double real(const char* key) const {
    const auto entry = json_.find(key);
    if (entry == json_.end() || !(entry->is_number() || entry->is_null()))
      wrong(fmt::format("a number \"{}\"", key));
    return entry->is_null() ? std::nan("") : entry->get<double>();
  }

 private:
  [[noreturn]] void wrong(const std::string& expected) const {
    fail("{}:{}: expected {} in this line of metrics; mend or remove the file", path_.string(), number_,
         expected);
  }
  const Json& json_;
  const std::filesystem::path& path_;
  int64_t number_;
};

// Drops every line after step `last_step` and whatever is not a whole line. Returns the step of the last
// validation that stays, or -1.
int64_t cut_after(const std::filesystem::path& path, int64_t last_step) {
  int64_t validated = -1;
  if (!std::filesystem::exists(path)) return validated;
  const std::string content = read_file(path, kLargestFile);
  size_t kept = 0;
  while (kept < content.size()) {
    const size_t end = content.find('\n', kept);
    bool validation = false;
    const int64_t step =
        end == content.npos ? -1 : step_of(std::string_view(content).substr(kept, end - kept), &validation);
    if (step < 0 || step > last_step) break;
    if (validation) validated = step;
    kept = end + 1;
  }
  if (kept < content.size()) write_file(path, std::string_view(content).substr(0, kept));
  return validated;
}

}  // namespace

Metrics read_metrics(const std::filesystem::path& path) {
  Metrics metrics;
  const std::string content = read_file(path, kLargestFile);
  int64_t number = 0;
  for (size_t begin = 0, end; (end = content.find('\n', begin)) != content.npos; begin = end + 1) {
    ++number;
    const Json json = Json::parse(content.begin() + static_cast<std::ptrdiff_t>(begin),
                                  content.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    const Line line(json, path, number);
    if (line.has("valid_bits_per_byte")) {
      metrics.validations.push_back({line.integer("step"), line.integer("tokens"),
                                     line.real("valid_bits_per_token"), line.real("valid_bits_per_byte"),
                                     line.real("seconds")});
    } else {
      metrics.steps.push_back({line.integer("step"), line.integer("tokens"), line.real("loss"),
                               line.has("bits_per_byte") ? line.real("bits_per_byte") : std::nan(""),
                               line.real("lr"), line.real("grad_norm"), line.real("tokens_per_second"),
                               line.integer("peak_memory_bytes"), line.real("seconds")});
    }
  }
  return metrics;
}

double median_speed(const std::vector<StepMetrics>& steps) {
  std::vector<double> speeds;
  for (size_t i = steps.size() > 1 ? 1 : 0; i < steps.size(); ++i)
    if (std::isfinite(steps[i].tokens_per_second)) speeds.push_back(steps[i].tokens_per_second);
  if (speeds.empty()) return 0;
  std::sort(speeds.begin(), speeds.end());
  return 0.5 * (speeds[(speeds.size() - 1) / 2] + speeds[speeds.size() / 2]);
}

MetricsFile::MetricsFile(const std::filesystem::path& folder, int64_t last_step, bool events)
    : validated_(cut_after(folder / "metrics.jsonl", last_step)), lines_(folder / "metrics.jsonl") {
  if (events) events_.emplace(folder, last_step);
}

void MetricsFile::append(const StepMetrics& m) {
  const bool has_bits = !std::isnan(m.bits_per_byte);
  const std::string bits = has_bits ? fmt::format(R"("bits_per_byte":{},)", number(m.bits_per_byte)) : "";
  lines_.append(fmt::format(R"({{"step":{},"tokens":{},"loss":{},{}"lr":{},"grad_norm":{},)"
                            R"("tokens_per_second":{},"peak_memory_bytes":{},"seconds":{}}})"
                            "\n",
                            m.step, m.tokens, number(m.loss), bits, number(m.lr), number(m.grad_norm),
                            number(m.tokens_per_second), m.peak_memory_bytes, number(m.seconds)));
  if (!events_) return;
  events_->scalar("train/loss", m.step, m.loss);
  if (has_bits) events_->scalar("train/bits_per_byte", m.step, m.bits_per_byte);
  events_->scalar("train/lr", m.step, m.lr);
  events_->scalar("train/grad_norm", m.step, m.grad_norm);
  events_->scalar("train/tokens_per_second", m.step, m.tokens_per_second);
}

void MetricsFile::append(const ValidationMetrics& m) {
  lines_.append(fmt::format(
      R"({{"step":{},"tokens":{},"valid_bits_per_token":{},"valid_bits_per_byte":{},"seconds":{}}})"
      "\n",
      m.step, m.tokens, number(m.bits_per_token), number(m.bits_per_byte), number(m.seconds)));
  validated_ = m.step;
  if (!events_) return;
  events_->scalar("valid/bits_per_token", m.step, m.bits_per_token);
  events_->scalar("valid/bits_per_byte", m.step, m.bits_per_byte);
}

}  // namespace harmonic
