// What is to leave through a socket, in order: all that waits goes together, within a deadline.
#pragma once

#include <boost/asio.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace harmonic {

// Of the loop's thread.
class HttpOutbox {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  // `left` is called when what waited has left, with what went wrong, a deadline that passed included.
  HttpOutbox(Socket& socket, double write_seconds, std::function<void(boost::system::error_code)> left)
      : socket_(socket),
        timer_(socket.get_executor()),
        write_seconds_(write_seconds),
        left_(std::move(left)) {}

  // `owner`, whose member this is, lives until the bytes have left.
  void write(std::string bytes, const std::shared_ptr<void>& owner);
  // Drops what waits.
  void close();
  // Returns memory that only a long answer needed.
  void shrink() { std::string().swap(leaving_); }

  bool empty() const { return waiting_.empty() && !writing_; }
  int64_t unsent() const { return unsent_; }  // bytes that were given and have not left
  int64_t sent() const { return sent_; }      // bytes that left, of this answer
  void begin_answer() { sent_ = 0; }

 private:
  void write_next(const std::shared_ptr<void>& owner);
  void write_some(const std::shared_ptr<void>& owner);

  Socket& socket_;
  boost::asio::steady_timer timer_;
  const double write_seconds_;
  const std::function<void(boost::system::error_code)> left_;
  std::vector<std::string> waiting_;
  std::string leaving_;
  size_t taken_ = 0;  // of leaving_
  std::chrono::steady_clock::time_point latest_;
  int64_t unsent_ = 0, sent_ = 0;
  bool writing_ = false;
};

}  // namespace harmonic
