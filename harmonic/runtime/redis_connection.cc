#include "harmonic/runtime/redis_connection.h"

#include <hiredis.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr std::chrono::milliseconds kFirstPause{50}, kLongestPause{2000};
constexpr double kShareForOthers = 0.125;  // of the time for a reply, to wait for another's
constexpr std::string_view kScheme = "redis:";

// hiredis before 1.0.1 multiplies the length of a list without a check (CVE-2021-32765), which cannot
// overflow where it stops at 2^31 elements and sizes have 64 bits.
static_assert(sizeof(size_t) == 8);

// hiredis writes to sockets that may be closed; what that raises in this thread is taken back.
class WithoutBrokenPipes {
 public:
  WithoutBrokenPipes() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~WithoutBrokenPipes() {
    if (::sigismember(&before_, SIGPIPE)) return;
    const timespec now = {0, 0};
    while (::sigtimedwait(&pipe_, nullptr, &now) > 0) continue;
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
};

struct FreeReply {
  void operator()(void* reply) const { ::freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

RedisValue value_of(const redisReply& reply, const std::string& address) {
  RedisValue value;
  switch (reply.type) {
    case REDIS_REPLY_NIL:
      return value;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
      value.kind = RedisValue::Kind::text;
      value.text.assign(reply.str, reply.len);
      return value;
    case REDIS_REPLY_INTEGER:
      value.kind = RedisValue::Kind::number;
      value.number = reply.integer;
      return value;
    case REDIS_REPLY_ARRAY:
      value.kind = RedisValue::Kind::list;
      for (size_t i = 0; i < reply.elements; ++i) value.list.push_back(value_of(*reply.element[i], address));
      return value;
    case REDIS_REPLY_ERROR: {
      const std::string_view why(reply.str, reply.len);
      std::string what = fmt::format("{}: Redis refuses: {}", address, why);
      // Of a script too, within what it says of that one.
      if (why.find("OOM command not allowed") != why.npos)
        throw StoreFull(what + "; give it more memory (maxmemory), or delete sessions");
      throw StoreUnavailable(what);
    }
    default:
      fail("{}: a reply of a kind that is not known, {}", address, reply.type);
  }
}

}  // namespace

// The connection is of no use any more.
struct RedisConnection::Broken {
  std::string why;
  bool in_time;  // it broke off; otherwise nothing came for too long
};

// A thread's use of the connection, which the others wait for, but not long.
class RedisConnection::Turn {
 public:
  explicit Turn(RedisConnection& connection) : connection_(connection) {
    std::unique_lock lock(connection.mutex_);
    const std::chrono::duration<double> wait(connection.options_.seconds * kShareForOthers);
    if (!connection.free_.wait_for(lock, wait, [&] { return !connection.taken_; }))
      throw StoreUnavailable(
          fmt::format("{}: has not answered another request yet; try again", connection.address()));
    connection.taken_ = true;
  }
  ~Turn() {
    {
      const std::lock_guard lock(connection_.mutex_);
      connection_.taken_ = false;
    }
    connection_.free_.notify_one();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  RedisConnection& connection_;
};

RedisOptions RedisOptions::of(const std::string& address) {
  const auto wrong = [&] {
    fail_usage("--sessions {}: expected redis://HOST:PORT, or redis:FILE with a socket's file", address);
  };
  RedisOptions options;
  if (!address.starts_with(kScheme)) wrong();
  std::string_view rest = std::string_view(address).substr(kScheme.size());
  if (!rest.starts_with("//")) {
    options.socket_file = rest;
    if (rest.empty() || rest.size() > 100) wrong();
    return options;
  }
  rest.remove_prefix(2);
  const bool bracket = rest.starts_with('[');
  const size_t end = bracket ? rest.find(']') : std::min(rest.find(':'), rest.size());
  if (end == rest.npos) wrong();
  options.host = rest.substr(bracket, end - bracket);
  rest.remove_prefix(end + bracket);
  if (!rest.empty()) {
    const char* last = rest.data() + rest.size();
    const auto [stop, error] = std::from_chars(rest.data() + 1, last, options.port);
    if (rest.front() != ':' || error != std::errc() || stop != last || options.port < 1 ||
        options.port > 65535)
      wrong();
  }
  if (options.host.empty() || options.host.find_first_of("/@?#") != std::string::npos) wrong();
  return options;
}

std::string RedisOptions::address() const {
  if (!socket_file.empty()) return std::string(kScheme) + socket_file;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("redis://{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

RedisConnection::RedisConnection(const RedisOptions& options) : options_(options) {}
RedisConnection::~RedisConnection() { close(); }

RedisValue RedisConnection::ask(const Words& command) {
  const Turn turn(*this);
  const WithoutBrokenPipes guard;
  for (;;) {
    const bool fresh = connect();
    try {
      RedisValue value = exchange(command);
      pause_ = {};
      return value;
    } catch (const Broken& broken) {
      close();
      if (fresh || !broken.in_time) fail_for_now(broken.why);
    }
  }
}

// Whether the connection is a new one.
bool RedisConnection::connect() {
  if (context_) return false;
  if (std::chrono::steady_clock::now() < not_before_)
    throw StoreUnavailable(
        fmt::format("{}: not there a moment ago ({}); try again", address(), last_failure_));
  timeval time;
  time.tv_sec = static_cast<time_t>(options_.seconds);
  time.tv_usec = static_cast<suseconds_t>((options_.seconds - static_cast<double>(time.tv_sec)) * 1e6);
  context_ = options_.socket_file.empty()
                 ? ::redisConnectWithTimeout(options_.host.c_str(), options_.port, time)
                 : ::redisConnectUnixWithTimeout(options_.socket_file.c_str(), time);
  if (!context_ || context_->err || ::redisSetTimeout(context_, time) != REDIS_OK) {
    const std::string why = context_ ? context_->errstr : "out of memory";
    close();
    fail_for_now("cannot connect: " + why);
  }
  if (!options_.password.empty()) {
    try {
      exchange({"AUTH", options_.password});
    } catch (const Broken& broken) {
      close();
      fail_for_now(broken.why);
    } catch (...) {
      close();
      throw;
    }
  }
  return true;
}

void RedisConnection::close() {
  if (context_) ::redisFree(context_);
  context_ = nullptr;
}

void RedisConnection::fail_for_now(const std::string& why) {
  pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
  not_before_ = std::chrono::steady_clock::now() + pause_;
  last_failure_ = why;
  throw StoreUnavailable(fmt::format("{}: {}; is Redis running there?", address(), why));
}

RedisValue RedisConnection::exchange(const Words& command) {
  const auto check = [this](int result) {
    if (result == REDIS_OK) return;
    const bool in_time = !(context_->err == REDIS_ERR_IO && (errno == EAGAIN || errno == EWOULDBLOCK));
    throw Broken{in_time ? fmt::format("the connection broke off: {}", context_->errstr)
                         : fmt::format("no reply in {} s", options_.seconds),
                 in_time};
  };
  std::vector<const char*> words;
  std::vector<size_t> sizes;
  for (const std::string_view word : command) {
    words.push_back(word.data());
    sizes.push_back(word.size());
  }
  check(::redisAppendCommandArgv(context_, static_cast<int>(words.size()), words.data(), sizes.data()));
  void* reply = nullptr;
  errno = 0;
  check(::redisGetReply(context_, &reply));
  return value_of(*Reply(static_cast<redisReply*>(reply)), address());
}

}  // namespace harmonic
