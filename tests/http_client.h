// A client of HTTP/1.1 that can be told to misbehave: bytes out, bytes in, over one connection.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace harmonic {

struct HttpReply {
  int status = 0;  // 0: the connection ended first
  std::map<std::string, std::string> headers;
  std::string body;
};

class HttpClient {
 public:
  explicit HttpClient(int port) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  explicit HttpClient(const std::string& socket_file) {
    socket_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_file.copy(address.sun_path, sizeof address.sun_path - 1);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~HttpClient() { close(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  // The other end sees that no more comes, and can still answer.
  void send_no_more() { ::shutdown(socket_, SHUT_WR); }
  void receive_buffer(int bytes) { ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes); }

  // False when the other end has gone.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (done <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(done));
    }
    return true;
  }

  HttpReply get(const std::string& path, const std::string& more = "") {
    send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "\r\n");
    return read();
  }
  HttpReply post(const std::string& path, const std::string& body, const std::string& more = "") {
    send_post(path, body, more);
    return read();
  }
  HttpReply request(const std::string& method, const std::string& path, const std::string& more = "") {
    send(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "\r\n");
    return read();
  }
  void send_post(const std::string& path, const std::string& body, const std::string& more = "") {
    send("POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + more +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }

  // One whole answer; what follows it stays for the next read.
  HttpReply read(bool has_body = true) {
    HttpReply reply = read_head();
    if (reply.status == 0 || !has_body || reply.status == 100) return reply;
    if (reply.headers.contains("transfer-encoding")) {
      for (std::string chunk; read_chunk(chunk); reply.body += chunk) continue;
    } else if (reply.headers.contains("content-length")) {
      const auto size = static_cast<size_t>(std::stoull(reply.headers["content-length"]));
      while (buffer_.size() < size && fill()) continue;
      reply.body = take(size);
    } else {
      while (fill()) continue;
      reply.body = std::exchange(buffer_, {});
    }
    return reply;
  }
  HttpReply read_head() {
    HttpReply reply;
    while (buffer_.find("\r\n\r\n") == std::string::npos)
      if (!fill()) return reply;
    const std::string head = take(buffer_.find("\r\n\r\n") + 4);
    reply.status = std::stoi(head.substr(9, 3));
    for (size_t at = head.find("\r\n") + 2; at + 2 < head.size();) {
      const size_t end = head.find("\r\n", at), colon = head.find(": ", at);
      std::string name = head.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(::tolower(c));
      reply.headers[name] = head.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    return reply;
  }
  // False at the last one, and when the connection ended.
  bool read_chunk(std::string& chunk) {
    while (buffer_.find("\r\n") == std::string::npos)
      if (!fill()) return false;
    const auto size = static_cast<size_t>(std::stoull(take(buffer_.find("\r\n") + 2), nullptr, 16));
    while (buffer_.size() < size + 2)
      if (!fill()) return false;
    chunk = take(size);
    take(2);
    return size > 0;
  }
  // Whether the other end closes within so many seconds.
  bool is_closed(double seconds = 10) {
    pollfd waiting = {socket_, POLLIN, 0};
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end) {
      char bytes[4096];
      if (::poll(&waiting, 1, 20) > 0 && ::recv(socket_, bytes, sizeof bytes, MSG_DONTWAIT) <= 0) return true;
    }
    return false;
  }

 private:
  bool fill() {
    pollfd waiting = {socket_, POLLIN, 0};
    if (::poll(&waiting, 1, 60'000) <= 0) return false;
    char bytes[16384];
    const ssize_t got = ::recv(socket_, bytes, sizeof bytes, 0);
    if (got <= 0) return false;
    buffer_.append(bytes, static_cast<size_t>(got));
    return true;
  }
  std::string take(size_t count) {
    std::string bytes = buffer_.substr(0, count);
    buffer_.erase(0, count);
    return bytes;
  }

  int socket_ = -1;
  bool connected_ = false;
  std::string buffer_;
};

}  // namespace harmonic
