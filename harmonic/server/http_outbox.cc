#include "harmonic/server/http_outbox.h"

#include "harmonic/server/http_connection.h"

namespace harmonic {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

void HttpOutbox::write(std::string bytes, const std::shared_ptr<void>& owner) {
  unsent_ += static_cast<int64_t>(bytes.size());
  waiting_.push_back(std::move(bytes));
  if (!writing_) write_next(owner);
}

void HttpOutbox::write_next(const std::shared_ptr<void>& owner) {
  writing_ = true;
  leaving_.clear();
  for (const std::string& bytes : waiting_) leaving_ += bytes;
  waiting_.clear();
  // A large answer may take longer, at no less than 64 KB a second.
  timer_.expires_after(seconds_of(write_seconds_ + static_cast<double>(leaving_.size()) / 65536));
  timer_.async_wait([this, weak = std::weak_ptr<void>(owner)](ErrorCode error) {
    if (error) return;
    if (const auto alive = weak.lock()) left_(asio::error::timed_out);
  });
  asio::async_write(socket_, asio::buffer(leaving_), [this, owner](ErrorCode error, size_t bytes) {
    writing_ = false;
    timer_.cancel();
    sent_ += static_cast<int64_t>(bytes);
    unsent_ -= static_cast<int64_t>(bytes);
    if (!error && !waiting_.empty()) write_next(owner);
    left_(error);
  });
}

void HttpOutbox::close() {
  timer_.cancel();
  waiting_.clear();
}

}  // namespace harmonic
