#include "harmonic/server/http_outbox.h"

#include "harmonic/server/http_connection.h"

namespace harmonic {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
using Clock = std::chrono::steady_clock;

namespace {

constexpr size_t kBytesPerWrite = 256 << 10;

}  // namespace

void HttpOutbox::write(std::string bytes, const std::shared_ptr<void>& owner) {
  unsent_ += static_cast<int64_t>(bytes.size());
  waiting_.push_back(std::move(bytes));
  if (!writing_) write_next(owner);
}

void HttpOutbox::write_next(const std::shared_ptr<void>& owner) {
  writing_ = true;
  if (waiting_.size() == 1) {
    leaving_ = std::move(waiting_.front());
  } else {
    leaving_.clear();
    for (const std::string& bytes : waiting_) leaving_ += bytes;
  }
  waiting_.clear();
  taken_ = 0;
  latest_ = Clock::now() + seconds_of(write_seconds_ + static_cast<double>(leaving_.size()) / 65536);
  write_some(owner);
}

// A large answer may take longer, at no less than 64 KB a second; but not without any of it being taken.
void HttpOutbox::write_some(const std::shared_ptr<void>& owner) {
  timer_.expires_at(std::min(latest_, Clock::now() + seconds_of(write_seconds_)));
  timer_.async_wait([this, weak = std::weak_ptr<void>(owner)](ErrorCode error) {
    if (error) return;
    if (const auto alive = weak.lock()) left_(asio::error::timed_out);
  });
  const size_t most = std::min(leaving_.size() - taken_, kBytesPerWrite);
  socket_.async_write_some(asio::buffer(leaving_.data() + taken_, most),
                           [this, owner](ErrorCode error, size_t bytes) {
                             taken_ += bytes;
                             sent_ += static_cast<int64_t>(bytes);
                             unsent_ -= static_cast<int64_t>(bytes);
                             if (!error && taken_ < leaving_.size()) return write_some(owner);
                             writing_ = false;
                             timer_.cancel();
                             if (!error && !waiting_.empty()) write_next(owner);
                             left_(error);
                           });
}

void HttpOutbox::close() {
  timer_.cancel();
  waiting_.clear();
}

}  // namespace harmonic
