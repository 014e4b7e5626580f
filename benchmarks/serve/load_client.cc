#include "benchmarks/serve/load_client.h"

#include <charconv>

#include "harmonic/base/error.h"

namespace harmonic {

namespace asio = boost::asio;
using asio::use_awaitable;

namespace {

constexpr size_t kBytesPerRead = 16 << 10;

// The value of a header in a head whose names are as our server writes them.
std::string_view header_of(std::string_view head, std::string_view name) {
  const size_t at = head.find(name);
  if (at == head.npos) return {};
  const size_t begin = at + name.size();
  return head.substr(begin, head.find("\r\n", begin) - begin);
}

size_t number_of(std::string_view text, int base) {
  size_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value, base).ec != std::errc())
    fail("an answer with the length \"{}\"", text);
  return value;
}

}  // namespace

asio::awaitable<void> LoadClient::connect(int port, uint32_t from) {
  const asio::ip::tcp::endpoint to(asio::ip::address_v4::loopback(), static_cast<uint16_t>(port));
  socket_.open(to.protocol());
  if (from != 1) socket_.bind({asio::ip::address_v4(0x7f000000u | from), 0});
  socket_.set_option(asio::ip::tcp::no_delay(true));
  co_await socket_.async_connect(to, use_awaitable);
}

asio::awaitable<void> LoadClient::send(std::string_view bytes) {
  asked_ = Clock::now();
  co_await asio::async_write(socket_, asio::buffer(bytes), use_awaitable);
}

asio::awaitable<void> LoadClient::fill() {
  const size_t before = buffer_.size();
  buffer_.resize(before + kBytesPerRead);
  size_t got = 0;
  try {
    got =
        co_await socket_.async_read_some(asio::buffer(buffer_.data() + before, kBytesPerRead), use_awaitable);
  } catch (...) {
    buffer_.resize(before);
    throw;
  }
  buffer_.resize(before + got);
}

asio::awaitable<Answer> LoadClient::read(Take take) {
  Answer answer;
  size_t head_end;
  while ((head_end = buffer_.find("\r\n\r\n")) == buffer_.npos) co_await fill();
  const std::string head = buffer_.substr(0, head_end + 2);
  buffer_.erase(0, head_end + 4);
  if (!head.starts_with("HTTP/1.1 ")) fail("an answer that begins with \"{}\"", head.substr(0, 16));
  answer.status = static_cast<int>(number_of(std::string_view(head).substr(9, 3), 10));
  const bool chunked = !header_of(head, "Transfer-Encoding: ").empty();
  const std::string_view length = header_of(head, "Content-Length: ");
  size_t left = chunked || length.empty() ? 0 : number_of(length, 10);
  for (;;) {
    if (chunked) {
      size_t line;
      while ((line = buffer_.find("\r\n")) == buffer_.npos) co_await fill();
      left = number_of(std::string_view(buffer_).substr(0, line), 16);
      buffer_.erase(0, line + 2);
    }
    while (buffer_.size() < left + (chunked ? 2 : 0)) co_await fill();
    if (answer.to_first == 0) answer.to_first = seconds_since(asked_);
    const std::string_view piece = std::string_view(buffer_).substr(0, left);
    if (take) {
      if (left > 0) take(piece);
    } else {
      answer.body += piece;
    }
    buffer_.erase(0, left + (chunked ? 2 : 0));
    if (!chunked || left == 0) break;
  }
  answer.to_end = seconds_since(asked_);
  if (buffer_.empty()) std::string().swap(buffer_);  // ten thousand may wait
  co_return answer;
}

asio::awaitable<Answer> LoadClient::ask(std::string request, Take take) {
  co_await send(request);
  co_return co_await read(std::move(take));
}

asio::awaitable<void> LoadClient::wait_for_close() {
  char bytes[256];
  boost::system::error_code error;
  while (!error)
    co_await socket_.async_read_some(asio::buffer(bytes), asio::redirect_error(use_awaitable, error));
}

void LoadClient::close() {
  boost::system::error_code ignored;
  socket_.close(ignored);
}

std::string get_request(std::string_view path) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
}

std::string post_request(std::string_view path, const Json& body) {
  const std::string text = body.dump();
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      path, text.size(), text);
}

void Load::start(asio::awaitable<void> work) {
  asio::co_spawn(loop_, std::move(work), [this](std::exception_ptr failure) {
    if (failure && !failure_) failure_ = failure;
  });
}

void Load::run() {
  loop_.run();
  loop_.restart();
  if (const auto failure = std::exchange(failure_, nullptr)) std::rethrow_exception(failure);
}

asio::awaitable<void> pause(double seconds) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  timer.expires_after(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
  co_await timer.async_wait(use_awaitable);
}

std::string ask_once(int port, std::string request) {
  Load load;
  std::string body;
  load.start([](asio::io_context& loop, int to, std::string text, std::string& out) -> asio::awaitable<void> {
    LoadClient client(loop);
    co_await client.connect(to);
    Answer answer = co_await client.ask(std::move(text));
    if (answer.status != 200) fail("the server answered {}: {}", answer.status, answer.body);
    out = std::move(answer.body);
  }(load.loop(), port, std::move(request), body));
  load.run();
  return body;
}

}  // namespace harmonic
