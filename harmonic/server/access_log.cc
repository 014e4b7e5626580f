#include "harmonic/server/access_log.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "harmonic/base/error.h"
#include "harmonic/base/log.h"

namespace harmonic {
namespace {

constexpr int kBetweenLooks = 100;  // milliseconds

}  // namespace

AccessLog::AccessLog(const std::string& file) {
  if (file != "-") file_.emplace(file);
  thread_ = std::thread([this] { run(); });
}

AccessLog::~AccessLog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void AccessLog::add(std::string line) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostWaiting) {
      ++dropped_;
      return;
    }
    waiting_.push_back(std::move(line) + "\n");
  }
  wake_.notify_one();
}

void AccessLog::run() {
  for (;;) {
    std::deque<std::string> lines;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      lines.swap(waiting_);
      if (const int64_t dropped = std::exchange(dropped_, 0))
        lines.push_back(fmt::format("{{\"dropped\":{}}}\n", dropped));
    }
    for (const std::string& line : lines)
      if (!write(line)) return;
  }
}

// False when nothing more can be written.
bool AccessLog::write(std::string_view line) {
  if (!file_) return write_to_standard_error(line);
  try {
    file_->append(line);
  } catch (const Error& error) {
    warn("{}", error.what());
  }
  return true;
}

// A pipe that is ready takes PIPE_BUF bytes without waiting.
bool AccessLog::write_to_standard_error(std::string_view line) {
  while (!line.empty()) {
    pollfd out = {STDERR_FILENO, POLLOUT, 0};
    if (::poll(&out, 1, kBetweenLooks) <= 0) {
      const std::lock_guard lock(mutex_);
      if (stopping_) return false;
      continue;
    }
    const ssize_t written = ::write(STDERR_FILENO, line.data(), std::min<size_t>(line.size(), PIPE_BUF));
    if (written < 0 && errno != EINTR && errno != EAGAIN) return true;  // nobody is there to be told
    if (written > 0) line.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace harmonic
