#include "harmonic/experiment/number_text.h"

#include <fmt/format.h>

#include <cmath>

namespace harmonic {
namespace {

constexpr const char* kMinus = "\u2212";

// Three digits, or all of a number of at least 100.
std::string three_digits(double number) {
  return fmt::format("{:.{}f}", number, number < 9.995 ? 2 : number < 99.95 ? 1 : 0);
}

}  // namespace

std::string without_zeros(const std::string& text) {
  const size_t point = text.find('.');
  if (point == text.npos) return text;
  size_t end = text.find_first_not_of("0123456789", point + 1);
  if (end == text.npos) end = text.size();
  const size_t last = text.find_last_not_of('0', end - 1);
  return text.substr(0, last == point ? point : last + 1) + text.substr(end);
}

std::string grouped_text(int64_t number) {
  if (number < 0) return kMinus + grouped_text(-number);
  if (number < 1000) return fmt::format("{}", number);
  return fmt::format("{},{:03}", grouped_text(number / 1000), number % 1000);
}

std::string length_text(int64_t tokens) {
  constexpr int64_t kKilo = 1024, kMega = 1024 * 1024;
  if (tokens >= kMega && tokens % kMega == 0) return fmt::format("{}M", tokens / kMega);
  if (tokens >= kKilo && tokens % kKilo == 0) return fmt::format("{}K", tokens / kKilo);
  return grouped_text(tokens);
}

std::string count_text(double count) {
  if (count < 0) return kMinus + count_text(-count);
  for (const auto& [unit, name] : {std::pair(1e12, "T"), {1e9, "G"}, {1e6, "M"}, {1e3, "K"}})
    if (count >= 0.9995 * unit) return three_digits(count / unit) + name;
  return without_zeros(three_digits(count));
}

std::string bytes_text(double bytes) {
  for (const auto& [unit, name] : {std::pair(1e12, " TB"), {1e9, " GB"}, {1e6, " MB"}, {1e3, " KB"}})
    if (bytes >= 0.9995 * unit) return three_digits(bytes / unit) + name;
  return without_zeros(three_digits(bytes)) + " B";
}

std::string seconds_text(double seconds) {
  if (seconds >= 3600) return three_digits(seconds / 3600) + " h";
  if (seconds >= 120) return three_digits(seconds / 60) + " min";
  return three_digits(seconds) + " s";
}

std::string fixed_text(double number, int digits) {
  const std::string text = fmt::format("{:.{}f}", std::abs(number), digits);
  const bool zero = text.find_first_of("123456789") == text.npos;
  return (number < 0 && !zero ? kMinus : "") + text;
}

std::string signed_text(double number, int digits) {
  const std::string text = fixed_text(number, digits);
  const bool zero = text.find_first_of("123456789") == text.npos;
  return (number > 0 && !zero ? "+" : "") + text;
}

std::string percent_text(double share) { return fmt::format("{:.1f} %", 100 * share); }

}  // namespace harmonic
