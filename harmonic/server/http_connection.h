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

// Serves the client at the other end, known by this name, until it or the server closes: the connection keeps
// itself. On the loop's thread.
void serve_connection(HttpShared& shared, boost::asio::generic::stream_protocol::socket socket,
                      std::string client);

}  // namespace harmonic
