// The handler's end of a connection's request: what its threads say is brought to the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/server/http_server.h"

namespace harmonic {

// The loop's end. Every member is called on the loop's thread.
class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  virtual bool at_work() const = 0;  // whether a request is being answered
  virtual void close() = 0;
  virtual void respond(HttpResponse response) = 0;
  virtual void start_stream(const HttpResponse& head) = 0;
  virtual void send(std::string_view piece) = 0;
  virtual void end_stream() = 0;
  virtual void next_piece(std::function<void(std::string)> take) = 0;
  virtual void when_taken(std::function<void()> taken) = 0;
};

inline std::chrono::steady_clock::duration seconds_of(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(seconds));
}

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class ConnectionExchange;

// When what streams have to say leaves: all that came since the last time, of all of them together, some at a
// time, so that others need not wait for hundreds of writes. Of the loop's thread.
class HttpGathering {
 public:
  HttpGathering(boost::asio::io_context& loop, std::chrono::steady_clock::duration interval)
      : timer_(loop), interval_(interval) {}
  std::chrono::steady_clock::duration interval() const { return interval_; }
  // It is flushed within the interval.
  void add(std::shared_ptr<ConnectionExchange> exchange);
  void clear();

 private:
  static constexpr size_t kAtOnce = 16;
  void flush_some();

  boost::asio::steady_timer timer_;
  const std::chrono::steady_clock::duration interval_;
  std::vector<std::shared_ptr<ConnectionExchange>> waiting_;  // for the timer
  std::deque<std::shared_ptr<ConnectionExchange>> leaving_;
};

class ConnectionExchange : public HttpExchange, public std::enable_shared_from_this<ConnectionExchange> {
 public:
  ConnectionExchange(std::shared_ptr<HttpConnection> connection, boost::asio::io_context& loop,
                     HttpGathering& gathering, HttpRequest request)
      : connection_(std::move(connection)),
        loop_(loop),
        gathering_(gathering),
        request_(std::move(request)) {}
  // A connection belongs to the loop's thread, and ends there.
  ~ConnectionExchange() override;

  const HttpRequest& request() const override { return request_; }
  void respond(HttpResponse response) override;
  void start_stream(HttpResponse head) override;
  void send(std::string_view piece) override;
  void end_stream() override;
  void when_gone(std::function<void()> gone) override;
  void next_piece(std::function<void(std::string)> take) override;
  void when_taken(std::function<void()> taken) override;
  void keep(std::shared_ptr<void> what) override;

  // On the loop's thread, the connection's own: a piece of the body has come (before the handler has the
  // exchange); the client went away; the answer is whole and has left; what has come for the stream leaves.
  std::string& body() { return request_.body; }
  void client_went();
  void complete();
  void flush();

 private:
  void flush_in_time();

  std::shared_ptr<HttpConnection> connection_;
  boost::asio::io_context& loop_;
  HttpGathering& gathering_;
  HttpRequest request_;
  std::mutex mutex_;
  std::optional<HttpResponse> head_;  // of a stream, on its way to the loop
  std::string unsent_;                // pieces on theirs
  bool posted_ = false;               // flush() will be called
  bool ending_ = false;
  // Of the loop's thread.
  std::function<void()> gone_;
  std::shared_ptr<void> kept_;
  bool went_ = false, over_ = false;
  std::chrono::steady_clock::time_point flushed_{};
};

}  // namespace harmonic
