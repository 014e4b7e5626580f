// Messages to a person, on standard error. Results never go through here.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace harmonic {

enum class LogStyle { text, json, quiet };  // quiet shows warnings only

// Set once, before other threads start.
void set_log_style(LogStyle style);
LogStyle log_style();

void log_message(std::string_view message);  // both may be called from any thread
void warn_message(std::string_view message);

template <typename... Args>
void log(fmt::format_string<Args...> format, Args&&... args) {
  log_message(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  warn_message(fmt::format(format, std::forward<Args>(args)...));
}

// A line that a terminal shows in place, rewritten at each call; on a pipe it is a plain log line at most
// every few seconds. end_progress() leaves the last one standing.
void progress(const std::string& line);
void end_progress();

}  // namespace harmonic
