#include "harmonic/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <mutex>
#include <utility>

#include "harmonic/base/utf8.h"

namespace harmonic {
namespace {

LogStyle style = LogStyle::text;
std::mutex progress_mutex;
bool line_open = false;
std::chrono::steady_clock::time_point last_plain{};
std::string held_back;  // the newest line of progress that came too soon after another to be shown

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
  for (std::string_view rest = message; !rest.empty();) {
    const Utf8Step step = read_utf8(rest);
    const std::string_view bytes = rest.substr(0, static_cast<size_t>(step.length));
    rest.remove_prefix(bytes.size());
    if (step.kind != Utf8Step::Kind::character) {
      escaped += "\ufffd";  // a name may hold any bytes, JSON is UTF-8
    } else if (step.code == '"' || step.code == '\\') {
      escaped += '\\';
      escaped += bytes;
    } else if (step.code < 0x20) {
      escaped += fmt::format("\\u{:04x}", static_cast<int>(step.code));
    } else {
      escaped += bytes;
    }
  }
  const auto now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return fmt::format(R"({{"time":{:.3f},"level":"{}","message":"{}"}})", now, level, escaped);
}

void close_line() {
  if (line_open) std::fputc('\n', stderr);
  line_open = false;
}

// With progress_mutex held.
void write_message(std::string_view message) {
  close_line();
  logger().info("{}", style == LogStyle::json ? json_line("info", message) : std::string(message));
}

}  // namespace

void set_log_style(LogStyle new_style) { style = new_style; }
LogStyle log_style() { return style; }

void log_message(std::string_view message) {
  if (style == LogStyle::quiet) return;
  std::lock_guard lock(progress_mutex);
  write_message(message);
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
  std::lock_guard lock(progress_mutex);
  if (terminal && style == LogStyle::text) {
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
    line_open = true;
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_plain < std::chrono::seconds(5)) {
    held_back = line;
    return;
  }
  last_plain = now;
  held_back.clear();
  write_message(line);
}

void end_progress() {
  std::lock_guard lock(progress_mutex);
  if (!held_back.empty()) write_message(std::exchange(held_back, {}));
  close_line();
}

}  // namespace harmonic
