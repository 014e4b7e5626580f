// Clients of a server under load: thousands on one thread. HTTP/1.1 as far as the server speaks it.
#pragma once

#include <boost/asio.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "harmonic/base/json.h"

namespace harmonic {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

struct Answer {
  int status = 0;
  std::string body;
  double to_first = 0, to_end = 0;  // seconds from the request's first byte to the body's first and last
};

// One connection, kept over many requests. Used by one coroutine at a time; throws
// boost::system::system_error when the connection fails, Error for an answer that is not HTTP.
class LoadClient {
 public:
  using Take = std::function<void(std::string_view piece)>;  // of a body, as it comes

  explicit LoadClient(boost::asio::io_context& loop) : socket_(loop) {}

  // To 127.0.0.1, from one of the addresses of 127.0.0.0/8: `from` is its last three bytes.
  boost::asio::awaitable<void> connect(int port, uint32_t from = 1);
  boost::asio::awaitable<void> send(std::string_view bytes);
  boost::asio::awaitable<Answer> read(Take take = {});
  boost::asio::awaitable<Answer> ask(std::string request, Take take = {});
  // Until the other end closes; what it sends is dropped.
  boost::asio::awaitable<void> wait_for_close();
  void close();

 private:
  boost::asio::awaitable<void> fill();

  boost::asio::ip::tcp::socket socket_;
  std::string buffer_;  // came, not used yet
  Clock::time_point asked_;
};

// Of one of many clients: 127.1.x.y, as connect() takes it.
inline constexpr int64_t kAddresses = 2500;
inline uint32_t address_of(int64_t client) {
  const auto number = static_cast<uint32_t>(client % kAddresses);
  return (1u << 16) + ((number / 250) << 8) + number % 250 + 1;
}

std::string get_request(std::string_view path);
std::string post_request(std::string_view path, const Json& body);

// Runs coroutines on this thread until all have ended. What one throws is thrown when they have.
class Load {
 public:
  boost::asio::io_context& loop() { return loop_; }
  void start(boost::asio::awaitable<void> work);
  void run();

 private:
  boost::asio::io_context loop_{1};
  std::exception_ptr failure_;
};

boost::asio::awaitable<void> pause(double seconds);

// One request on a connection of its own, which must be answered with 200: the answer's body.
std::string ask_once(int port, std::string request);

}  // namespace harmonic
