#include "harmonic/server/http_server.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/optional.hpp>
#include <chrono>
#include <ctime>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <unordered_set>

#include "harmonic/base/error.h"
#include "harmonic/base/log.h"

namespace harmonic {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Socket = asio::generic::stream_protocol::socket;

namespace {

constexpr size_t kBytesPerRead = 16 << 10, kBytesWhileIdle = 2 << 10;
constexpr size_t kPieceBytes = 64 << 10;
constexpr int64_t kUnsentBeforeNextPiece = 256 << 10;
constexpr int kClientGone = 499;

Clock::duration seconds_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts;
  ::gmtime_r(&now, &parts);
  char text[64];
  std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return text;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

// Whether the bytes were wrong, and not the connection.
bool is_of_http(ErrorCode error) {
  return error.category() == make_error_code(http::error::bad_method).category() &&
         error != http::error::end_of_stream && error != http::error::partial_message;
}

// What is wrong with the framing of a request's body, where two readers might disagree; empty when nothing.
std::string framing_error(const HttpRequest& request) {
  const int64_t lengths = request.count("content-length"), encodings = request.count("transfer-encoding");
  if (lengths > 0 && encodings > 0) return "both Content-Length and Transfer-Encoding";
  if (lengths > 1 || request.header("content-length").find(',') != std::string_view::npos)
    return "more than one Content-Length";
  if (encodings > 1 || (encodings == 1 && lower_case(request.header("transfer-encoding")) != "chunked"))
    return "a Transfer-Encoding other than chunked";
  if (encodings == 1 && request.minor_version == 0) return "a Transfer-Encoding in HTTP/1.0";
  return {};
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (key == name) return value;
  return {};
}

int64_t HttpRequest::count(std::string_view name) const {
  int64_t found = 0;
  for (const auto& [key, value] : headers) found += key == name;
  return found;
}

namespace {

class Connection;

// What connections share. Of the loop's thread, but for the counter.
struct Shared {
  Shared(const HttpOptions& options_, HttpHandler& handler_) : options(options_), handler(handler_) {}
  const HttpOptions options;
  HttpHandler& handler;
  asio::io_context loop{1};
  std::unordered_set<Connection*> connections;
  std::atomic<int64_t> count{0};
  int64_t held = 0;  // bytes of bodies
  bool draining = false;
};

class Exchange : public HttpExchange, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(std::shared_ptr<Connection> connection, asio::io_context& loop, HttpRequest request)
      : connection_(std::move(connection)), loop_(loop), request_(std::move(request)) {}

  // A connection belongs to the loop's thread, and ends there.
  ~Exchange() override {
    asio::post(loop_, [connection = std::move(connection_)] {});
  }

  const HttpRequest& request() const override { return request_; }
  void respond(HttpResponse response) override;
  void start_stream(HttpResponse head) override;
  void send(std::string_view piece) override;
  void end_stream() override;
  void when_gone(std::function<void()> gone) override;
  void next_piece(std::function<void(std::string)> take) override;

  // On the loop's thread.
  void client_went();
  void complete() {
    gone_ = nullptr;
    over_ = true;
  }

 private:
  friend class Connection;
  void flush();

  std::shared_ptr<Connection> connection_;
  asio::io_context& loop_;
  HttpRequest request_;
  std::mutex mutex_;
  std::string unsent_;   // pieces on their way to the loop
  bool posted_ = false;  // flush() will be called
  bool ending_ = false;
  // Of the loop's thread.
  std::function<void()> gone_;
  bool went_ = false, over_ = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Shared& shared, Socket socket, std::string client)
      : shared_(shared),
        socket_(std::move(socket)),
        read_timer_(shared.loop),
        write_timer_(shared.loop),
        silence_timer_(shared.loop),
        client_(std::move(client)) {
    shared_.connections.insert(this);
    ++shared_.count;
  }
  ~Connection() {
    shared_.connections.erase(this);
    --shared_.count;
  }

  void start() { wait_for_request(); }

  bool at_work() const { return exchange_ != nullptr; }

  void close() {
    if (!open_) return;
    open_ = false;
    ErrorCode ignored;
    socket_.shutdown(Socket::shutdown_both, ignored);
    socket_.close(ignored);
    read_timer_.cancel();
    write_timer_.cancel();
    silence_timer_.cancel();
    outbox_.clear();
    let_go_of_body();
    if (const auto exchange = std::move(exchange_)) {
      exchange->client_went();
      shared_.handler.ended(exchange->request(), answered_ ? status_ : kClientGone, sent_,
                            seconds_since_begin());
    }
    take_piece_ = nullptr;
  }

  void respond(const HttpResponse& response) {
    if (!exchange_ || answered_) return;
    answered_ = true;
    std::string bytes = head_of(response);
    bytes += fmt::format("Content-Length: {}\r\n\r\n", response.body.size());
    if (exchange_->request().method != "HEAD") bytes += response.body;
    finished_ = true;
    write(std::move(bytes));
  }

  void start_stream(const HttpResponse& head) {
    if (!exchange_ || answered_) return;
    answered_ = streaming_ = true;
    chunked_ = exchange_->request().minor_version >= 1;
    if (!chunked_) keep_alive_ = false;
    std::string bytes = head_of(head);
    bytes += chunked_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
    events_ = head.content_type.starts_with("text/event-stream");
    write(std::move(bytes));
    watch_silence();
  }

  void send(std::string_view piece) {
    if (!exchange_ || !streaming_ || finished_ || piece.empty()) return;
    if (unsent_ + static_cast<int64_t>(piece.size()) > shared_.options.max_unsent_bytes && unsent_ > 0) {
      close();
      return;
    }
    write(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::string(piece));
    watch_silence();
  }

  void end_stream() {
    if (!exchange_ || !streaming_ || finished_) return;
    finished_ = true;
    silence_timer_.cancel();
    write(chunked_ ? "0\r\n\r\n" : "");
  }

  void next_piece(std::function<void(std::string)> take) {
    if (!exchange_) return;
    take_piece_ = std::move(take);
    // A sender whose answer is not read waits.
    piece_is_due_ = unsent_ > kUnsentBeforeNextPiece;
    if (!piece_is_due_) read_piece();
  }

 private:
  // --- reading ---

  void wait_for_request() {
    if (!open_) return;
    if (shared_.draining) {
      close();
      return;
    }
    if (buffer_.size() > 0) {
      read_head();
      return;
    }
    // Thousands may wait here: each keeps as little as it can.
    parser_.reset();
    buffer_.shrink_to_fit();
    std::string().swap(leaving_);
    std::string().swap(piece_);
    set_deadline(read_timer_, shared_.options.idle_seconds);
    socket_.async_read_some(buffer_.prepare(kBytesWhileIdle),
                            [self = shared_from_this()](ErrorCode error, size_t bytes) {
                              if (error) {
                                self->close();
                                return;
                              }
                              self->buffer_.commit(bytes);
                              self->read_head();
                            });
  }

  void read_head() {
    begin_ = Clock::now();
    parser_.emplace();
    parser_->header_limit(static_cast<uint32_t>(shared_.options.max_header_bytes));
    parser_->body_limit(boost::none);  // counted here, also where it is taken in pieces
    set_deadline(read_timer_, shared_.options.header_seconds);
    http::async_read_header(socket_, buffer_, *parser_, [self = shared_from_this()](ErrorCode error, size_t) {
      self->read_timer_.cancel();
      if (error) {
        self->refuse_head(error);
      } else {
        self->head_has_come();
      }
    });
  }

  void refuse_head(ErrorCode error) {
    if (!open_ || !is_of_http(error)) {
      close();
      return;
    }
    begin_exchange({});
    refuse(error == http::error::header_limit ? 431 : 400,
           error == http::error::header_limit ? "the request's headers are too large"
                                              : "not a request of HTTP/1.1: " + error.message());
  }

  void head_has_come() {
    const auto& message = parser_->get();
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.minor_version = message.version() >= 11 ? 1 : 0;
    const std::string target(message.target());
    const size_t question = std::min(target.find('?'), target.size());
    request.path = target.substr(0, question);
    request.query = target.substr(std::min(question + 1, target.size()));
    request.client = client_;
    for (const auto& field : message)
      request.headers.emplace_back(
          lower_case(std::string_view(field.name_string().data(), field.name_string().size())),
          std::string(field.value().data(), field.value().size()));
    keep_alive_ = message.keep_alive();
    const std::string wrong = framing_error(request);
    const bool many = static_cast<int64_t>(request.headers.size()) > shared_.options.max_headers;
    const bool large = parser_->content_length() &&
                       *parser_->content_length() > static_cast<uint64_t>(shared_.options.max_body_bytes);
    const bool expects = lower_case(request.header("expect")) == "100-continue";
    const bool hosts =
        request.count("host") > 1 || (request.minor_version == 1 && request.count("host") == 0);
    const bool no_version = message.version() != 11 && message.version() != 10;
    begin_exchange(std::move(request));
    pieces_ = wrong.empty() && !many && !hosts && shared_.handler.takes_pieces(exchange_->request());
    if (no_version) return refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    if (!wrong.empty()) return refuse(400, "the request has " + wrong);
    if (many) return refuse(431, fmt::format("more than {} headers", shared_.options.max_headers));
    if (hosts) return refuse(400, "expected exactly one Host header");
    if (large && !pieces_)
      return refuse(413, fmt::format("a body of more than {} bytes", shared_.options.max_body_bytes));
    if (const auto refused = shared_.handler.refuses(exchange_->request())) {
      keep_alive_ = keep_alive_ && parser_->is_done();
      return respond(*refused);
    }
    if (expects && !parser_->is_done()) write("HTTP/1.1 100 Continue\r\n\r\n");
    if (pieces_) {
      shared_.handler.handle(exchange_);
      return;
    }
    if (parser_->is_done()) {
      body_has_come();
      return;
    }
    set_deadline(read_timer_, shared_.options.body_seconds);
    read_body();
  }

  void read_piece() {
    if (parser_->is_done()) {
      give_piece({});
    } else {
      read_body();
    }
  }

  void read_body() {
    piece_.resize(kPieceBytes);
    parser_->get().body().data = piece_.data();
    parser_->get().body().size = piece_.size();
    parser_->get().body().more = true;
    if (pieces_) set_deadline(read_timer_, shared_.options.body_seconds);
    http::async_read_some(socket_, buffer_, *parser_, [self = shared_from_this()](ErrorCode error, size_t) {
      self->piece_has_come(error);
    });
  }

  void piece_has_come(ErrorCode error) {
    if (error == http::error::need_buffer) error = {};
    if (!open_ || !exchange_) return;
    if (error) {
      if (is_of_http(error) && !answered_) {
        refuse(400, "the body is not framed as HTTP/1.1: " + error.message());
      } else {
        close();
      }
      return;
    }
    piece_.resize(kPieceBytes - parser_->get().body().size);
    if (pieces_) {
      if (piece_.empty() && !parser_->is_done()) {
        read_body();
        return;
      }
      read_timer_.cancel();
      give_piece(std::exchange(piece_, {}));
      return;
    }
    std::string& body = exchange_->request_.body;
    if (static_cast<int64_t>(body.size() + piece_.size()) > shared_.options.max_body_bytes)
      return refuse(413, fmt::format("a body of more than {} bytes", shared_.options.max_body_bytes));
    body += piece_;
    held_ += static_cast<int64_t>(piece_.size());
    shared_.held += static_cast<int64_t>(piece_.size());
    if (shared_.held > shared_.options.max_held_bytes)
      return refuse(503, "the server holds too many requests");
    if (parser_->is_done()) {
      read_timer_.cancel();
      std::string().swap(piece_);
      body_has_come();
    } else {
      read_body();
    }
  }

  void give_piece(std::string piece) {
    if (auto take = std::exchange(take_piece_, nullptr)) take(std::move(piece));
  }

  void body_has_come() {
    watch_client();
    shared_.handler.handle(exchange_);
  }

  // A client that goes away while its answer is made need not be waited for.
  void watch_client() {
    socket_.async_wait(Socket::wait_read, [self = shared_from_this(), exchange = exchange_](ErrorCode error) {
      if (error || !self->open_ || self->exchange_ != exchange || self->finished_) return;
      char byte;
      ErrorCode nothing;
      self->socket_.non_blocking(true, nothing);
      const size_t got = self->socket_.receive(asio::buffer(&byte, 1), Socket::message_peek, nothing);
      // More bytes are the next request, which waits for its turn.
      if (got == 0 && nothing != asio::error::would_block && nothing != asio::error::try_again) self->close();
    });
  }

  // --- answering ---

  void begin_exchange(HttpRequest request) {
    answered_ = streaming_ = finished_ = pieces_ = events_ = false;
    status_ = 0;
    sent_ = 0;
    exchange_ = std::make_shared<Exchange>(shared_from_this(), shared_.loop, std::move(request));
  }

  // What follows on the connection cannot be trusted to begin a request.
  void refuse(int status, std::string_view why) {
    keep_alive_ = false;
    respond(shared_.handler.refusal(status, why));
  }

  std::string head_of(const HttpResponse& response) {
    status_ = response.status;
    if (shared_.draining || (parser_ && !parser_->is_done() && !pieces_)) keep_alive_ = false;
    const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
    std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", response.status,
                                   std::string_view(reason.data(), reason.size()), date_now());
    if (!response.content_type.empty()) head += fmt::format("Content-Type: {}\r\n", response.content_type);
    for (const auto& [name, value] : response.headers) head += fmt::format("{}: {}\r\n", name, value);
    if (!keep_alive_) {
      head += "Connection: close\r\n";
    } else if (exchange_->request().minor_version == 0) {
      head += "Connection: keep-alive\r\n";
    }
    return head;
  }

  void write(std::string bytes) {
    unsent_ += static_cast<int64_t>(bytes.size());
    outbox_.push_back(std::move(bytes));
    if (outbox_.size() == 1 && !writing_) write_next();
  }

  void write_next() {
    // All that waits goes in one write.
    writing_ = true;
    leaving_.clear();
    for (std::string& bytes : outbox_) leaving_ += bytes;
    outbox_.clear();
    // A large answer may take longer, at no less than 64 KB a second.
    set_deadline(write_timer_, shared_.options.write_seconds + static_cast<double>(leaving_.size()) / 65536);
    asio::async_write(
        socket_, asio::buffer(leaving_), [self = shared_from_this()](ErrorCode error, size_t bytes) {
          self->writing_ = false;
          self->write_timer_.cancel();
          self->sent_ += static_cast<int64_t>(bytes);
          self->unsent_ -= static_cast<int64_t>(bytes);
          if (error) {
            self->close();
            return;
          }
          if (!self->open_) return;
          if (self->unsent_ <= kUnsentBeforeNextPiece && std::exchange(self->piece_is_due_, false))
            self->read_piece();
          if (!self->outbox_.empty()) {
            self->write_next();
          } else if (self->finished_) {
            self->answer_has_left();
          }
        });
  }

  void let_go_of_body() {
    shared_.held -= held_;
    held_ = 0;
  }

  void answer_has_left() {
    let_go_of_body();
    const auto exchange = std::move(exchange_);
    exchange_ = nullptr;
    if (!exchange) return;
    exchange->complete();
    take_piece_ = nullptr;
    const bool whole = parser_ && parser_->is_done();
    shared_.handler.ended(exchange->request(), status_, sent_, seconds_since_begin());
    finished_ = answered_ = streaming_ = false;
    if (keep_alive_ && whole && !shared_.draining) {
      wait_for_request();
      return;
    }
    linger();
  }

  // The answer must not be lost to a reset that bytes which nobody read would cause: they are read for a
  // moment.
  void linger() {
    ErrorCode ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    set_deadline(read_timer_, 1);
    drop_input();
  }
  void drop_input() {
    buffer_.clear();
    socket_.async_read_some(buffer_.prepare(kBytesPerRead),
                            [self = shared_from_this()](ErrorCode error, size_t bytes) {
                              self->dropped_ += bytes;
                              if (error || !self->open_ || self->dropped_ > (1 << 20)) {
                                self->close();
                              } else {
                                self->drop_input();
                              }
                            });
  }

  void watch_silence() {
    if (!events_ || finished_ || !open_) return;
    silence_timer_.expires_after(seconds_of(shared_.options.keep_alive_seconds));
    silence_timer_.async_wait([weak = weak_from_this()](ErrorCode error) {
      const auto self = weak.lock();
      if (!error && self && self->open_ && self->streaming_ && !self->finished_)
        self->send(": still at work\n\n");
    });
  }

  void set_deadline(asio::steady_timer& timer, double seconds) {
    timer.expires_after(seconds_of(seconds));
    timer.async_wait([weak = weak_from_this()](ErrorCode error) {
      if (error) return;
      if (const auto self = weak.lock()) self->close();
    });
  }

  double seconds_since_begin() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  Shared& shared_;
  Socket socket_;
  asio::steady_timer read_timer_, write_timer_, silence_timer_;
  const std::string client_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::buffer_body>> parser_;
  std::string piece_;
  std::function<void(std::string)> take_piece_;
  std::shared_ptr<Exchange> exchange_;
  Clock::time_point begin_{};
  std::deque<std::string> outbox_;
  std::string leaving_;
  int64_t unsent_ = 0, sent_ = 0, held_ = 0;
  size_t dropped_ = 0;
  int status_ = 0;
  bool open_ = true, keep_alive_ = true, writing_ = false;
  bool piece_is_due_ = false;
  bool answered_ = false, streaming_ = false, chunked_ = false, finished_ = false, pieces_ = false,
       events_ = false;
};

void Exchange::respond(HttpResponse response) {
  asio::post(loop_, [self = shared_from_this(), response = std::move(response)] {
    if (!self->over_) self->connection_->respond(response);
  });
}

void Exchange::start_stream(HttpResponse head) {
  asio::post(loop_, [self = shared_from_this(), head = std::move(head)] {
    if (!self->over_) self->connection_->start_stream(head);
  });
}

void Exchange::send(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  unsent_ += piece;
  if (std::exchange(posted_, true)) return;
  asio::post(loop_, [self = shared_from_this()] { self->flush(); });
}

void Exchange::end_stream() {
  const std::lock_guard lock(mutex_);
  ending_ = true;
  if (std::exchange(posted_, true)) return;
  asio::post(loop_, [self = shared_from_this()] { self->flush(); });
}

void Exchange::flush() {
  std::string piece;
  bool ending;
  {
    const std::lock_guard lock(mutex_);
    piece.swap(unsent_);
    posted_ = false;
    ending = ending_;
  }
  if (over_) return;
  connection_->send(piece);
  if (ending && !over_) connection_->end_stream();
}

void Exchange::when_gone(std::function<void()> gone) {
  asio::post(loop_, [self = shared_from_this(), gone = std::move(gone)] {
    if (self->went_) {
      gone();
    } else if (!self->over_) {
      self->gone_ = gone;
    }
  });
}

void Exchange::next_piece(std::function<void(std::string)> take) {
  asio::post(loop_, [self = shared_from_this(), take = std::move(take)] {
    if (!self->over_) self->connection_->next_piece(take);
  });
}

void Exchange::client_went() {
  went_ = over_ = true;
  if (auto gone = std::exchange(gone_, nullptr)) gone();
}

}  // namespace

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
    if (!file_.empty()) ::unlink(file_.c_str());
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
      ErrorCode ignored;
      acceptor_.close(ignored);
      deadline_.expires_after(seconds_of(seconds));
      deadline_.async_wait([this](ErrorCode error) {
        if (!error) shared_.loop.stop();
      });
      for (Connection* connection : std::vector(shared_.connections.begin(), shared_.connections.end()))
        if (!connection->at_work()) connection->close();
      stop_when_empty();
    });
  }

  void stop() { shared_.loop.stop(); }
  void post(std::function<void()> work) { asio::post(shared_.loop, std::move(work)); }
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
    std::make_shared<Connection>(shared_, std::move(socket), client_name())->start();
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
    ErrorCode ignored;
    acceptor_.close(ignored);
    signals_.cancel(ignored);
    pause_.cancel();
    deadline_.cancel();
    for (Connection* connection : std::vector(shared_.connections.begin(), shared_.connections.end()))
      connection->close();
  }

  Shared shared_;
  asio::basic_socket_acceptor<asio::generic::stream_protocol> acceptor_;
  asio::generic::stream_protocol::endpoint peer_;
  asio::steady_timer pause_, deadline_;
  asio::signal_set signals_;
  int port_ = 0;
  std::string file_;
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
int64_t HttpServer::connections() const { return implementation_->connections(); }

}  // namespace harmonic
