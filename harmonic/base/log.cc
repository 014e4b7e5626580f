#include "harmonic/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <mutex>

namespace harmonic {
namespace {

LogStyle style = LogStyle::text;
std::mutex progress_mutex;
bool line_open = false;
std::chrono::steady_clock::time_point last_plain{};

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made =
        std::make_shared<spdlog::logger>("harmonic", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern(style == LogStyle::json ? "%v" : "%H:%M:%S %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

std::string json_line(std::string_view level, std::string_view message) {
  std::string escaped;
  for (char c : message) {
    if (c == '"' || c == '\\') {
      escaped += '\\';
      escaped += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      escaped += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      escaped += c;
    }
  }
  const auto now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return fmt::format(R"({{"time":{:.3f},"level":"{}","message":"{}"}})", now, level, escaped);
}

void close_line() {
  if (line_open) std::fputc('\n', stderr);
  line_open = false;
}

}  // namespace

void set_log_style(LogStyle new_style) { style = new_style; }
LogStyle log_style() { return style; }

void log_message(std::string_view message) {
  if (style == LogStyle::quiet) return;
  std::lock_guard lock(progress_mutex);
  close_line();
  logger().info("{}", style == LogStyle::json ? json_line("info", message) : std::string(message));
}

void warn_message(std::string_view message) {
  std::lock_guard lock(progress_mutex);
  close_line();
  logger().warn(
      "{}", style == LogStyle::json ? json_line("warning", message) : fmt::format("warning: {}", message));
}

void progress(const std::string& line) {
  if (style == LogStyle::quiet) return;
  static const bool terminal = ::isatty(STDERR_FILENO) == 1;
  if (terminal && style == LogStyle::text) {
    std::lock_guard lock(progress_mutex);
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
    line_open = true;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_plain < std::chrono::seconds(5)) return;
  last_plain = now;
  log_message(line);
}

void end_progress() {
  std::lock_guard lock(progress_mutex);
  close_line();
}

}  // namespace harmonic
