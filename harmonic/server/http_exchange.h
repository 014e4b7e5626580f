// The handler's end of a connection's request: what its threads say is brought to the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "harmonic/server/http_server.h"

namespace harmonic {

// The loop's end. Every member is called on the loop's thread.
class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  virtual bool at_work() const = 0;  // whether a request is being answered
  virtual void close() = 0;
  virtual void respond(const HttpResponse& response) = 0;
  virtual void start_stream(const HttpResponse& head) = 0;
  virtual void send(std::string_view piece) = 0;
  virtual void end_stream() = 0;
  virtual void next_piece(std::function<void(std::string)> take) = 0;
};

class ConnectionExchange : public HttpExchange, public std::enable_shared_from_this<ConnectionExchange> {
 public:
  ConnectionExchange(std::shared_ptr<HttpConnection> connection, boost::asio::io_context& loop,
                     HttpRequest request)
      : connection_(std::move(connection)), loop_(loop), request_(std::move(request)) {}
  // A connection belongs to the loop's thread, and ends there.
  ~ConnectionExchange() override;

  const HttpRequest& request() const override { return request_; }
  void respond(HttpResponse response) override;
  void start_stream(HttpResponse head) override;
  void send(std::string_view piece) override;
  void end_stream() override;
  void when_gone(std::function<void()> gone) override;
  void next_piece(std::function<void(std::string)> take) override;

  // On the loop's thread, the connection's own: a piece of the body has come (before the handler has the
  // exchange); the client went away; the answer is whole and has left.
  std::string& body() { return request_.body; }
  void client_went();
  void complete();

 private:
  void flush();

  std::shared_ptr<HttpConnection> connection_;
  boost::asio::io_context& loop_;
  HttpRequest request_;
  std::mutex mutex_;
  std::string unsent_;   // pieces on their way to the loop
  bool posted_ = false;  // flush() will be called
  bool ending_ = false;
  // Of the loop's thread.
  std::function<void()> gone_;
  bool went_ = false, over_ = false;
};

}  // namespace harmonic
