// One connection of a client: requests are read within limits and deadlines, answers written.
#pragma once

#include <atomic>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <unordered_set>

#include "harmonic/server/http_exchange.h"

namespace harmonic {

// What the connections of a server share. Of the loop's thread, but for the counter.
struct HttpShared {
  HttpShared(const HttpOptions& options_, HttpHandler& handler_)
      : options(options_), handler(handler_), gathering(loop, seconds_of(options_.gather_seconds)) {}
  const HttpOptions options;
  HttpHandler& handler;
  boost::asio::io_context loop{1};
  HttpGathering gathering;
  std::unordered_set<HttpConnection*> connections;
  std::atomic<int64_t> count{0};
  int64_t held = 0;  // bytes of bodies and whole answers
  bool draining = false;
};

// What one connection holds of HttpShared::held.
class HeldBytes {
 public:
  explicit HeldBytes(HttpShared& shared) : shared_(shared) {}
  // Whether there is room for so many bytes more, which count until they are let go of.
  bool add(int64_t bytes) {
    own_ += bytes;
    shared_.held += bytes;
    return shared_.held <= shared_.options.max_held_bytes;
  }
  void let_go(int64_t bytes) {
    own_ -= bytes;
    shared_.held -= bytes;
  }
  void let_go() { let_go(own_); }

 private:
  HttpShared& shared_;
  int64_t own_ = 0;
};

// Serves the client at the other end, known by this name, until it or the server closes: the connection keeps
// itself. On the loop's thread.
void serve_connection(HttpShared& shared, boost::asio::generic::stream_protocol::socket socket,
                      std::string client);

}  // namespace harmonic
