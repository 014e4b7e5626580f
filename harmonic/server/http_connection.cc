#include "harmonic/server/http_connection.h"

#include <fmt/format.h>
#include <poll.h>

#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/optional.hpp>
#include <optional>

#include "harmonic/server/http_outbox.h"
#include "harmonic/server/http_parser.h"

namespace harmonic {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Socket = asio::generic::stream_protocol::socket;

namespace {

constexpr size_t kBytesPerRead = 16 << 10, kBytesWhileIdle = 2 << 10;
constexpr size_t kPieceBytes = 64 << 10;
constexpr size_t kFramingBytes = 64 << 10;  // that may wait beside a head: of chunks, their extensions
constexpr int64_t kUnsentBeforeNextPiece = 256 << 10;
constexpr int kClientGone = 499;
constexpr std::chrono::seconds kBetweenLooks{1};
constexpr double kLingerSeconds = 2;
constexpr double kLeastBytesPerSecond = 1024;  // of an upload in pieces
constexpr const char* kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

class Connection : public HttpConnection, public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpShared& shared, Socket socket, std::string client)
      : shared_(shared),
        socket_(std::move(socket)),
        read_timer_(shared.loop),
        silence_timer_(shared.loop),
        outbox_(socket_, shared.options.write_seconds, [this](ErrorCode error) { has_left(error); }),
        client_(std::move(client)),
        buffer_(static_cast<size_t>(shared.options.max_header_bytes) + kFramingBytes),
        held_(shared) {
    shared_.connections.insert(this);
    ++shared_.count;
  }
  ~Connection() override {
    shared_.connections.erase(this);
    --shared_.count;
  }

  void start() { wait_for_request(); }

  bool at_work() const override { return exchange_ != nullptr; }

  void close() override {
    if (!open_) return;
    open_ = false;
    ErrorCode ignored;
    socket_.shutdown(Socket::shutdown_both, ignored);
    socket_.close(ignored);
    read_timer_.cancel();
    silence_timer_.cancel();
    outbox_.close();
    held_.let_go();
    if (const auto exchange = std::move(exchange_)) {
      exchange->client_went();
      shared_.handler.ended(exchange->request(), answered_ ? status_ : kClientGone, outbox_.sent(),
                            seconds_since(begin_));
    }
    take_piece_ = nullptr;
    taken_ = nullptr;
  }

  void respond(HttpResponse response) override {
    if (!exchange_ || answered_) return;
    answered_ = true;
    if (parser_ && !parser_->is_done()) keep_alive_ = false;  // what follows is no request
    // Answers that nobody takes are held like bodies; small ones there is always room for.
    const auto size = static_cast<int64_t>(response.body.size());
    if (!held_.add(size) && response.body.size() > kPieceBytes) {
      held_.let_go(size);
      response = shared_.handler.refusal(503, "the server holds too many answers");
    }
    std::string head = head_of(response);
    head += fmt::format("Content-Length: {}\r\n\r\n", response.body.size());
    finished_ = true;
    if (exchange_->request().method == "HEAD") response.body.clear();
    // Small ones leave together; large ones are not copied once more on this thread.
    if (response.body.size() <= kPieceBytes) head += std::exchange(response.body, {});
    write(std::move(head));
    if (!response.body.empty()) write(std::move(response.body));
  }

  void start_stream(const HttpResponse& head) override {
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

  void send(std::string_view piece) override {
    if (!exchange_ || !streaming_ || finished_ || piece.empty()) return;
    if (outbox_.unsent() + static_cast<int64_t>(piece.size()) > shared_.options.max_unsent_bytes &&
        outbox_.unsent() > 0) {
      close();
      return;
    }
    write(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::string(piece));
    watch_silence();
  }

  void end_stream() override {
    if (!exchange_ || !streaming_ || finished_) return;
    finished_ = true;
    silence_timer_.cancel();
    write(chunked_ ? "0\r\n\r\n" : "");
  }

  void next_piece(std::function<void(std::string)> take) override {
    if (!exchange_) return;
    take_piece_ = std::move(take);
    // A sender whose answer is not read waits.
    piece_is_due_ = outbox_.unsent() > kUnsentBeforeNextPiece;
    if (!piece_is_due_) read_piece();
  }

  void when_taken(std::function<void()> taken) override {
    if (!exchange_ || finished_) return;
    taken_ = std::move(taken);
    tell_if_taken();
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
    outbox_.shrink();
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
    HttpRequest unknown;
    unknown.client = client_;
    begin_exchange(std::move(unknown));
    const bool large = error == http::error::header_limit || error == http::error::buffer_overflow;
    refuse(large ? 431 : 400, large ? "the request's headers are too large" : head_error(*parser_, error));
  }

  void head_has_come() {
    HttpRequest request = request_of(*parser_, client_);
    keep_alive_ = parser_->get().keep_alive();
    const auto wrong = head_refusal(request, parser_->get().version(), shared_.options);
    const bool large = parser_->content_length() &&
                       *parser_->content_length() > static_cast<uint64_t>(shared_.options.max_body_bytes);
    const bool expects = lower_case(request.header("expect")) == "100-continue";
    begin_exchange(std::move(request));
    if (wrong) return refuse(wrong->status, wrong->why);
    pieces_ = shared_.handler.takes_pieces(exchange_->request());
    if (large && !pieces_)
      return refuse(413, fmt::format("a body of more than {} bytes", shared_.options.max_body_bytes));
    if (const auto refused = shared_.handler.refuses(exchange_->request())) return respond(*refused);
    if (expects && !parser_->is_done()) write(kContinue);
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
    if (pieces_) set_deadline(read_timer_, patience_);
    const auto begin = Clock::now();
    http::async_read_some(socket_, buffer_, *parser_,
                          [self = shared_from_this(), begin](ErrorCode error, size_t) {
                            self->patience_ -= seconds_since(begin);
                            self->piece_has_come(error);
                          });
  }

  void piece_has_come(ErrorCode error) {
    if (error == http::error::need_buffer) error = {};
    if (!open_ || !exchange_) return;
    if (error) {
      if (is_of_http(error) && !answered_) {
        refuse(400, error == http::error::buffer_overflow
                        ? fmt::format("more than {} bytes of extensions or trailers of chunks", kFramingBytes)
                        : "the body is not framed as HTTP/1.1: " + error.message());
      } else {
        close();
      }
      return;
    }
    piece_.resize(kPieceBytes - parser_->get().body().size);
    if (pieces_) {
      patience_ = std::min(shared_.options.body_seconds,
                           patience_ + static_cast<double>(piece_.size()) / kLeastBytesPerSecond);
      if (piece_.empty() && !parser_->is_done()) {
        read_body();
        return;
      }
      read_timer_.cancel();
      give_piece(std::exchange(piece_, {}));
      return;
    }
    std::string& body = exchange_->body();
    if (static_cast<int64_t>(body.size() + piece_.size()) > shared_.options.max_body_bytes)
      return refuse(413, fmt::format("a body of more than {} bytes", shared_.options.max_body_bytes));
    body += piece_;
    if (!held_.add(static_cast<int64_t>(piece_.size())))
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

  // A client that goes away while its answer is made need not be waited for. One that has only said that it
  // sends no more is answered.
  void watch_client() {
    socket_.async_wait(Socket::wait_read,
                       [self = shared_from_this(), watched = std::weak_ptr(exchange_)](ErrorCode error) {
                         if (!error) self->look_at_client(watched, false);
                       });
  }

  // Its end may also stand behind bytes of the next request: it is looked for from time to time. The two ends
  // look the same until something is sent to the one that has gone: once, a line that others pass over.
  void look_at_client(const std::weak_ptr<ConnectionExchange>& watched, bool again) {
    if (!open_ || !exchange_ || exchange_ != watched.lock() || finished_) return;
    pollfd state = {socket_.native_handle(), POLLRDHUP, 0};
    ::poll(&state, 1, 0);
    if (state.revents & ~POLLRDHUP) return close();
    if (again && state.revents && !answered_ && exchange_->request().minor_version >= 1 &&
        !std::exchange(asked_, true))
      write(kContinue);
    read_timer_.expires_after(kBetweenLooks);
    read_timer_.async_wait([weak = weak_from_this(), watched](ErrorCode error) {
      if (const auto self = weak.lock(); self && !error) self->look_at_client(watched, true);
    });
  }

  // --- answering ---

  void begin_exchange(HttpRequest request) {
    answered_ = streaming_ = finished_ = pieces_ = events_ = asked_ = false;
    status_ = 0;
    patience_ = shared_.options.body_seconds;
    outbox_.begin_answer();
    exchange_ = std::make_shared<ConnectionExchange>(shared_from_this(), shared_.loop, shared_.gathering,
                                                     std::move(request));
  }

  // What follows on the connection cannot be trusted to begin a request.
  void refuse(int status, std::string_view why) {
    keep_alive_ = false;
    respond(shared_.handler.refusal(status, why));
  }

  std::string head_of(const HttpResponse& response) {
    status_ = response.status;
    if (shared_.draining) keep_alive_ = false;
    return response_head(response, reason_of(response.status), keep_alive_,
                         exchange_->request().minor_version);
  }

  void write(std::string bytes) { outbox_.write(std::move(bytes), shared_from_this()); }

  void has_left(ErrorCode error) {
    if (error) return close();
    if (!open_) return;
    if (outbox_.unsent() <= kUnsentBeforeNextPiece && std::exchange(piece_is_due_, false)) read_piece();
    tell_if_taken();
    if (finished_ && outbox_.empty()) answer_has_left();
  }

  void tell_if_taken() {
    if (outbox_.unsent() > kUnsentBeforeNextPiece) return;
    if (const auto taken = std::exchange(taken_, nullptr)) taken();
  }

  void answer_has_left() {
    held_.let_go();
    const auto exchange = std::move(exchange_);
    exchange_ = nullptr;
    if (!exchange) return;
    exchange->complete();
    take_piece_ = nullptr;
    taken_ = nullptr;
    const bool whole = parser_ && parser_->is_done();
    shared_.handler.ended(exchange->request(), status_, outbox_.sent(), seconds_since(begin_));
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
    set_deadline(read_timer_, kLingerSeconds);
    drop_input();
  }
  void drop_input() {
    buffer_.clear();
    socket_.async_read_some(buffer_.prepare(kBytesPerRead),
                            [self = shared_from_this()](ErrorCode error, size_t bytes) {
                              self->dropped_ += bytes;
                              if (error || !self->open_ || self->dropped_ > self->most_dropped()) {
                                self->close();
                              } else {
                                self->drop_input();
                              }
                            });
  }

  // A body that is a little too large: some clients look at an answer only when all of it is sent.
  size_t most_dropped() const { return static_cast<size_t>(shared_.options.max_body_bytes) + (1 << 20); }

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

  HttpShared& shared_;
  Socket socket_;
  asio::steady_timer read_timer_, silence_timer_;
  HttpOutbox outbox_;
  const std::string client_;
  boost::beast::flat_buffer buffer_;
  std::optional<HttpParser> parser_;
  std::string piece_;
  std::function<void(std::string)> take_piece_;
  std::function<void()> taken_;
  std::shared_ptr<ConnectionExchange> exchange_;
  Clock::time_point begin_{};
  double patience_ = 0;  // seconds for which an upload in pieces is still waited for; what comes adds to it
  HeldBytes held_;       // of the body and the whole answer at hand
  size_t dropped_ = 0;
  int status_ = 0;
  bool open_ = true, keep_alive_ = true;
  bool piece_is_due_ = false;
  bool answered_ = false, streaming_ = false, chunked_ = false, finished_ = false, pieces_ = false,
       events_ = false, asked_ = false;
};

}  // namespace

void serve_connection(HttpShared& shared, Socket socket, std::string client) {
  std::make_shared<Connection>(shared, std::move(socket), std::move(client))->start();
}

}  // namespace harmonic
