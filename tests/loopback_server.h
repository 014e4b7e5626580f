// A web server of one file on 127.0.0.1, that can be told to fail.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace harmonic {

class LoopbackServer {
 public:
  struct Behaviour {
    std::string content;
    bool ranges = true;                     // knows the Range header
    size_t most = std::string::npos;        // bytes of an answer, after which the connection is broken off
    size_t hang_after = std::string::npos;  // bytes of an answer, after which nothing more comes
    bool missing = false;                   // 404 for every address
  };

  // Listens at once, and answers from start() on: a test may fork before.
  LoopbackServer() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    ::setenv("no_proxy", "127.0.0.1", 1);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* name = reinterpret_cast<sockaddr*>(&address);
    if (::bind(socket_, name, size) != 0 || ::listen(socket_, 16) != 0 ||
        ::getsockname(socket_, name, &size) != 0)
      std::abort();
    port_ = ntohs(address.sin_port);
  }
  explicit LoopbackServer(Behaviour behaviour) : LoopbackServer() { start(std::move(behaviour)); }
  ~LoopbackServer() {
    ending_ = true;
    if (thread_.joinable()) thread_.join();
    ::close(socket_);
  }
  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;

  void start(Behaviour behaviour) {
    change(std::move(behaviour));
    thread_ = std::thread([this] { serve(); });
  }
  void change(Behaviour behaviour) {
    const std::lock_guard lock(mutex_);
    behaviour_ = std::move(behaviour);
  }
  std::string address(const std::string& path = "") const {
    return "http://127.0.0.1:" + std::to_string(port_) + "/" + path;
  }
  // The head of each request so far.
  std::vector<std::string> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void serve() {
    while (!ending_) {
      pollfd waiting = {socket_, POLLIN, 0};
      if (::poll(&waiting, 1, 20) <= 0) continue;
      const int connection = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection < 0) continue;
      answer(connection);
      ::close(connection);
    }
  }

  void answer(int connection) {
    std::string head;
    for (char byte; head.find("\r\n\r\n") == std::string::npos && ::read(connection, &byte, 1) == 1;)
      head += byte;
    Behaviour now;
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(head);
      now = behaviour_;
    }
    constexpr std::string_view kRange = "Range: bytes=";
    const size_t range = head.find(kRange);
    const size_t total = now.content.size();
    size_t begin = 0;
    std::string reply = "HTTP/1.1 200 OK\r\n";
    if (now.missing) {
      reply = "HTTP/1.1 404 Not Found\r\n";
      now.content = "no such page";
    } else if (now.ranges && range != std::string::npos) {
      begin = std::min(total, static_cast<size_t>(std::stoull(head.substr(range + kRange.size()))));
      reply = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " + std::to_string(begin) + "-" +
              std::to_string(total - 1) + "/" + std::to_string(total) + "\r\n";
    }
    std::string_view body = std::string_view(now.content).substr(begin);
    reply += "Connection: close\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n";
    send(connection, reply);
    send(connection, body.substr(0, std::min(now.most, now.hang_after)));
    if (now.hang_after >= body.size()) return;
    for (pollfd gone = {connection, POLLIN, 0}; !ending_ && ::poll(&gone, 1, 20) == 0;) continue;
  }

  static void send(int connection, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (done <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(done));
    }
  }

  int socket_, port_ = 0;
  std::thread thread_;
  std::atomic<bool> ending_{false};
  mutable std::mutex mutex_;
  Behaviour behaviour_;
  std::vector<std::string> requests_;
};

}  // namespace harmonic
