// Who may ask, and how much: API keys, requests at work, requests a minute.
#pragma once

#include <array>
#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace harmonic {

// The API keys of a server, compared in constant time. Immutable; any thread may ask.
class ApiKeys {
 public:
  ApiKeys() = default;
  // `file`: a key a line, empty lines and those that begin with # apart; may be empty. `more`: one more key,
  // or empty. Throws Error for a file without keys and for keys of fewer than 16 bytes.
  ApiKeys(const std::string& file, std::string_view more);

  bool required() const { return !keys_.empty(); }
  int64_t count() const { return static_cast<int64_t>(keys_.size()); }
  // The owner that this value of an Authorization header stands for: a hash of its key, in hexadecimal; the
  // same on every server and after a restart. None: no key of ours.
  std::optional<std::string> owner_of(std::string_view authorization) const;

 private:
  using Hash = std::array<unsigned char, 32>;
  static Hash hash_of(std::string_view key);
  void add(std::string_view key, const std::string& where);
  std::vector<Hash> keys_;
};

// Bounds what each client does at once and in a minute. Any thread may call.
class ClientLimits {
 public:
  ClientLimits(int64_t concurrent, double per_minute) : concurrent_(concurrent), per_minute_(per_minute) {}

  struct Refusal {
    const char* why;
    int retry_after;  // seconds
  };
  // Counts a request of this client's, or says why not.
  std::optional<Refusal> begin(const std::string& client);
  void end(const std::string& client);

 private:
  using Clock = std::chrono::steady_clock;
  struct Client {
    int64_t at_work = 0;
    double allowance = 0;  // requests that may come now
    Clock::time_point seen;
  };
  void forget_idle(Clock::time_point now);

  const int64_t concurrent_;
  const double per_minute_;
  std::mutex mutex_;
  std::unordered_map<std::string, Client> clients_;
  size_t enough_ = 1024;  // clients, before the idle ones are looked for
};

}  // namespace harmonic
