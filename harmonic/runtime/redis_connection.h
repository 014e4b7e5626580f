// A connection to a Redis server: commands in turn, replies checked, waits bounded. What is lost is connected
// anew.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/runtime/session_store.h"

struct redisContext;

namespace harmonic {

struct RedisOptions {
  std::string host, socket_file;  // one of them
  int port = 6379;
  std::string password;  // empty: the server asks for none
  double seconds = 2;    // that a connection, and each wait for a reply, may take

  // Of redis://HOST, redis://HOST:PORT (an IPv6 address in brackets) or redis:SOCKET_FILE. Throws Error
  // (usage).
  static RedisOptions of(const std::string& address);
  std::string address() const;
};

// A reply, or a part of one.
struct RedisValue {
  enum class Kind { nothing, text, number, list };
  Kind kind = Kind::nothing;
  std::string text;  // any bytes
  int64_t number = 0;
  std::vector<RedisValue> list;
};

// Every member may be called from several threads. Never to be called by a thread that must not wait.
class RedisConnection {
 public:
  explicit RedisConnection(const RedisOptions& options);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  using Words = std::vector<std::string_view>;
  // Sends a command and gives the reply. A connection that the server has closed since the last time is made
  // anew, and the command is sent again: it must be one that may come twice. Throws
  // StoreUnavailable when the server cannot be reached, does not answer in time or refuses, StoreFull where
  // that is for want of memory. So that nobody
  // waits in a row, it is also thrown for a moment after that, and where another thread's command takes long.
  RedisValue ask(const Words& command);

  std::string address() const { return options_.address(); }

 private:
  struct Broken;
  class Turn;
  bool connect();
  void close();
  [[noreturn]] void fail_for_now(const std::string& why);
  RedisValue exchange(const Words& command);

  const RedisOptions options_;
  std::mutex mutex_;
  std::condition_variable free_;
  bool taken_ = false;  // under the mutex: by the thread whose turn it is, which alone uses the following
  redisContext* context_ = nullptr;
  // After a failure nothing is tried before this time.
  std::chrono::steady_clock::time_point not_before_{};
  std::chrono::milliseconds pause_{0};
  std::string last_failure_;
};

}  // namespace harmonic
