#include "harmonic/server/http_exchange.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace harmonic {

namespace asio = boost::asio;

void HttpGathering::add(std::shared_ptr<ConnectionExchange> exchange) {
  waiting_.push_back(std::move(exchange));
  if (waiting_.size() > 1) return;
  timer_.expires_after(interval_);
  timer_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    const bool idle = leaving_.empty();
    leaving_.insert(leaving_.end(), waiting_.begin(), waiting_.end());
    waiting_.clear();
    if (idle) flush_some();
  });
}

void HttpGathering::flush_some() {
  for (size_t i = 0; i < kAtOnce && !leaving_.empty(); ++i) {
    const std::shared_ptr<ConnectionExchange> exchange = std::move(leaving_.front());
    leaving_.pop_front();
    exchange->flush();
  }
  if (!leaving_.empty()) asio::post(timer_.get_executor(), [this] { flush_some(); });
}

void HttpGathering::clear() {
  timer_.cancel();
  waiting_.clear();
  leaving_.clear();
}

ConnectionExchange::~ConnectionExchange() {
  asio::post(loop_, [connection = std::move(connection_)] {});
}

void ConnectionExchange::respond(HttpResponse response) {
  asio::post(loop_, [self = shared_from_this(), response = std::move(response)]() mutable {
    if (!self->over_) self->connection_->respond(std::move(response));
  });
}

// A stream's head, pieces and end are kept in one place, in order: the loop may take what its own thread
// posts after what another's did.
void ConnectionExchange::start_stream(HttpResponse head) {
  const std::lock_guard lock(mutex_);
  head_ = std::move(head);
  asio::post(loop_, [self = shared_from_this()] { self->flush(); });
}

void ConnectionExchange::send(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  unsent_ += piece;
  if (std::exchange(posted_, true)) return;
  asio::post(loop_, [self = shared_from_this()] { self->flush_in_time(); });
}

void ConnectionExchange::end_stream() {
  const std::lock_guard lock(mutex_);
  ending_ = true;
  asio::post(loop_, [self = shared_from_this()] { self->flush(); });
}

void ConnectionExchange::flush_in_time() {
  if (std::chrono::steady_clock::now() - flushed_ < gathering_.interval()) {
    gathering_.add(shared_from_this());
  } else {
    flush();
  }
}

void ConnectionExchange::flush() {
  std::optional<HttpResponse> head;
  std::string piece;
  bool ending;
  {
    const std::lock_guard lock(mutex_);
    head.swap(head_);
    piece.swap(unsent_);
    posted_ = false;
    ending = ending_;
  }
  if (over_) return;
  if (head) connection_->start_stream(*head);
  if (!piece.empty()) {
    flushed_ = std::chrono::steady_clock::now();
    connection_->send(piece);
  }
  if (ending && !over_) connection_->end_stream();
}

void ConnectionExchange::when_gone(std::function<void()> gone) {
  asio::post(loop_, [self = shared_from_this(), gone = std::move(gone)] {
    if (self->went_) {
      gone();
    } else if (!self->over_) {
      self->gone_ = gone;
    }
  });
}

void ConnectionExchange::next_piece(std::function<void(std::string)> take) {
  asio::post(loop_, [self = shared_from_this(), take = std::move(take)] {
    if (!self->over_) self->connection_->next_piece(take);
  });
}

void ConnectionExchange::when_taken(std::function<void()> taken) {
  asio::post(loop_, [self = shared_from_this(), taken = std::move(taken)] {
    self->flush();
    if (!self->over_) self->connection_->when_taken(taken);
  });
}

void ConnectionExchange::keep(std::shared_ptr<void> what) {
  asio::post(loop_, [self = shared_from_this(), what = std::move(what)] {
    if (!self->over_) self->kept_ = what;
  });
}

void ConnectionExchange::client_went() {
  went_ = over_ = true;
  kept_ = nullptr;
  if (auto gone = std::exchange(gone_, nullptr)) gone();
}

void ConnectionExchange::complete() {
  gone_ = nullptr;
  kept_ = nullptr;
  over_ = true;
}

}  // namespace harmonic
