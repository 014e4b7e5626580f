#include "harmonic/server/http_server.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio.hpp>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/server/http_connection.h"

namespace harmonic {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
using Socket = asio::generic::stream_protocol::socket;

// Listens, and ends.
class HttpServer::Implementation {
 public:
  Implementation(const HttpOptions& options, HttpHandler& handler)
      : shared_(options, handler),
        acceptor_(shared_.loop),
        pause_(shared_.loop),
        deadline_(shared_.loop),
        signals_(shared_.loop) {
    if (options.unix_socket.empty()) {
      listen_on_address();
    } else {
      listen_on_file();
    }
    accept();
  }
  ~Implementation() {
    end_connections();
    // What they left to do lets go of them.
    shared_.loop.restart();
    shared_.loop.poll();
  }

  int port() const { return port_; }

  void run(bool signals, std::function<void()> asked) {
    if (signals) {
      signals_.add(SIGTERM);
      signals_.add(SIGINT);
      wait_for_signal(std::move(asked));
    }
    const auto work = asio::make_work_guard(shared_.loop);
    shared_.loop.run();
  }

  void drain(double seconds) {
    asio::post(shared_.loop, [this, seconds] {
      if (std::exchange(shared_.draining, true)) return;
      stop_listening();
      deadline_.expires_after(seconds_of(seconds));
      deadline_.async_wait([this](ErrorCode error) {
        if (!error) shared_.loop.stop();
      });
      for (HttpConnection* connection : std::vector(shared_.connections.begin(), shared_.connections.end()))
        if (!connection->at_work()) connection->close();
      stop_when_empty();
    });
  }

  void stop() { shared_.loop.stop(); }
  void post(std::function<void()> work) { asio::post(shared_.loop, std::move(work)); }
  void post_later(double seconds, std::function<void()> work) {
    deadline_.expires_after(seconds_of(seconds));
    deadline_.async_wait([work = std::move(work)](ErrorCode error) {
      if (!error) work();
    });
  }
  int64_t connections() const { return shared_.count.load(); }

 private:
  void listen_on_address() {
    ErrorCode error;
    const auto address = asio::ip::make_address(shared_.options.host, error);
    if (error) fail_usage("--host {}: expected an address such as 127.0.0.1 or ::1", shared_.options.host);
    const asio::ip::tcp::endpoint endpoint(address, static_cast<uint16_t>(shared_.options.port));
    open(endpoint, fmt::format("{} port {}", shared_.options.host, shared_.options.port));
    sockaddr_storage name = {};
    socklen_t size = sizeof name;
    ::getsockname(acceptor_.native_handle(), reinterpret_cast<sockaddr*>(&name), &size);
    port_ = ntohs(address.is_v6() ? reinterpret_cast<sockaddr_in6&>(name).sin6_port
                                  : reinterpret_cast<sockaddr_in&>(name).sin_port);
  }

  void listen_on_file() {
    const std::string& path = shared_.options.unix_socket;
    if (path.size() > 100) fail_usage("--unix-socket {}: a path of more than 100 bytes", path);
    const asio::local::stream_protocol::endpoint endpoint(path);
    struct stat found;
    if (::lstat(path.c_str(), &found) == 0) {
      if (!S_ISSOCK(found.st_mode)) fail("{}: stands there and is no socket", path);
      asio::local::stream_protocol::socket probe(shared_.loop);
      ErrorCode error;
      probe.connect(endpoint, error);
      if (!error) fail("{}: another program listens there", path);
      ::unlink(path.c_str());
    }
    const mode_t before = ::umask(0077);
    try {
      open(endpoint, path);
    } catch (...) {
      ::umask(before);
      throw;
    }
    ::umask(before);
    file_ = path;
    own_file_ = ::lstat(path.c_str(), &found) == 0 ? std::pair(found.st_dev, found.st_ino)
                                                   : std::pair<dev_t, ino_t>();
  }

  // The file goes while its socket is still there, so that no other can have its number: one that a successor
  // made in its place stays.
  void stop_listening() {
    struct stat found;
    if (acceptor_.is_open() && !file_.empty() && ::lstat(file_.c_str(), &found) == 0 &&
        std::pair(found.st_dev, found.st_ino) == own_file_)
      ::unlink(file_.c_str());
    ErrorCode ignored;
    acceptor_.close(ignored);
  }

  void open(const asio::generic::stream_protocol::endpoint& endpoint, const std::string& name) {
    ErrorCode error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error && file_.empty() && shared_.options.unix_socket.empty())
      acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(4096, error);
    if (error) fail("cannot listen on {}: {}", name, error.message());
  }

  void accept() {
    acceptor_.async_accept(peer_, [this](ErrorCode error, Socket socket) {
      if (shared_.draining || error == asio::error::operation_aborted) return;
      if (!error) {
        take(std::move(socket));
      } else if (error != asio::error::connection_aborted) {
        // Out of descriptors, most likely: some will be free in a moment.
        pause_.expires_after(std::chrono::milliseconds(50));
        pause_.async_wait([this](ErrorCode stopped) {
          if (!stopped) accept();
        });
        return;
      }
      accept();
    });
  }

  void take(Socket socket) {
    if (shared_.count.load() >= shared_.options.max_connections) {
      ErrorCode ignored;
      socket.non_blocking(true, ignored);
      constexpr std::string_view kFull =
          "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: "
          "close\r\n\r\n";
      socket.send(asio::buffer(kFull), 0, ignored);
      return;
    }
    if (file_.empty()) {
      const int on = 1;
      ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    serve_connection(shared_, std::move(socket), client_name());
  }

  std::string client_name() const {
    if (!file_.empty()) return "unix";
    char text[INET6_ADDRSTRLEN] = "unknown";
    const sockaddr* name = peer_.data();
    if (name->sa_family == AF_INET)
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(name)->sin_addr, text, sizeof text);
    else if (name->sa_family == AF_INET6)
      ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(name)->sin6_addr, text, sizeof text);
    return text;
  }

  void wait_for_signal(std::function<void()> asked) {
    signals_.async_wait([this, asked = std::move(asked)](ErrorCode error, int) {
      if (error) return;
      asked();
      signals_.async_wait([](ErrorCode again, int number) {
        if (!again) ::_exit(128 + number);
      });
    });
  }

  void stop_when_empty() {
    if (shared_.connections.empty()) {
      shared_.loop.stop();
      return;
    }
    pause_.expires_after(std::chrono::milliseconds(20));
    pause_.async_wait([this](ErrorCode error) {
      if (!error) stop_when_empty();
    });
  }

  void end_connections() {
    shared_.draining = true;
    stop_listening();
    ErrorCode ignored;
    signals_.cancel(ignored);
    pause_.cancel();
    deadline_.cancel();
    shared_.gathering.clear();
    for (HttpConnection* connection : std::vector(shared_.connections.begin(), shared_.connections.end()))
      connection->close();
  }

  HttpShared shared_;
  asio::basic_socket_acceptor<asio::generic::stream_protocol> acceptor_;
  asio::generic::stream_protocol::endpoint peer_;
  asio::steady_timer pause_, deadline_;
  asio::signal_set signals_;
  int port_ = 0;
  std::string file_;
  std::pair<dev_t, ino_t> own_file_;  // the socket file of our making
};

HttpServer::HttpServer(const HttpOptions& options, HttpHandler& handler)
    : implementation_(std::make_unique<Implementation>(options, handler)) {}
HttpServer::~HttpServer() = default;
int HttpServer::port() const { return implementation_->port(); }
void HttpServer::run(bool signals, std::function<void()> asked) {
  implementation_->run(signals, std::move(asked));
}
void HttpServer::drain(double seconds) { implementation_->drain(seconds); }
void HttpServer::stop() { implementation_->stop(); }
void HttpServer::post(std::function<void()> work) { implementation_->post(std::move(work)); }
void HttpServer::post_later(double seconds, std::function<void()> work) {
  implementation_->post(
      [this, seconds, work = std::move(work)] { implementation_->post_later(seconds, work); });
}
int64_t HttpServer::connections() const { return implementation_->connections(); }

}  // namespace harmonic
