// The access log: a line a request, written off the event loop, since a disk or a reader may be slow or stand
// still.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "harmonic/base/files.h"

namespace harmonic {

class AccessLog {
 public:
  static constexpr size_t kMostWaiting = 8192;  // lines

  // `file`, or - for standard error. Throws Error.
  explicit AccessLog(const std::string& file);
  // Writes what waits, unless its reader stands still.
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  // Any thread may call; never waits. When too many lines wait, it is dropped, and a line {"dropped":N} says
  // in their place how many were.
  void add(std::string line);

 private:
  void run();
  bool write(std::string_view lines);
  bool write_to_standard_error(std::string_view lines);

  std::optional<AppendFile> file_;  // none: standard error
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::string> waiting_;
  int64_t dropped_ = 0;
  bool stopping_ = false;
  std::thread thread_;  // the last: it uses the others
};

}  // namespace harmonic
