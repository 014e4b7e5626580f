// A server that answers with what it got, and what its tests ask of it.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "harmonic/server/http_server.h"
#include "tests/http_client.h"

namespace harmonic {

// Answers with what it got; some paths do more.
class Echo : public HttpHandler {
 public:
  void handle(std::shared_ptr<HttpExchange> exchange) override {
    const HttpRequest& request = exchange->request();
    {
      const std::lock_guard lock(mutex_);
      last_ = exchange;
    }
    ++kept;
    exchange->keep(std::shared_ptr<void>(nullptr, [this](void*) { --kept; }));
    if (request.path == "/stream" || request.path == "/events") {
      exchange->start_stream({200, request.path == "/events" ? "text/event-stream" : "text/plain", {}, {}});
      exchange->send("one");
      exchange->send("two");
      if (request.path == "/stream") exchange->end_stream();
      held_ = exchange;
    } else if (request.path == "/slowly") {
      exchange->start_stream({200, "text/plain", {}, {}});
      flood_ = std::thread([exchange] {
        for (const char* piece : {"one ", "two ", "three "}) {
          exchange->send(piece);
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        exchange->end_stream();
      });
    } else if (request.path == "/flood") {
      exchange->start_stream({200, "text/plain", {}, {}});
      exchange->when_gone([this] { ++gone; });
      flood_ = std::thread([exchange, this] {
        for (int i = 0; i < 4000 && gone == 0; ++i) {
          exchange->send(std::string(100'000, 'x'));
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        exchange->end_stream();
      });
    } else if (request.path == "/late") {
      flood_ = std::thread([exchange] {
        std::this_thread::sleep_for(std::chrono::milliseconds(2500));
        exchange->respond({200, "text/plain", "late", {}});
      });
    } else if (request.path == "/never") {
      exchange->when_gone([this] { ++gone; });
      held_ = exchange;
    } else if (request.path == "/pieces") {
      exchange->when_gone([this] { ++gone; });
      take(exchange, 0);
    } else if (request.path == "/enough") {
      exchange->next_piece([exchange](const std::string&) {
        exchange->respond({400, "text/plain", "enough", {}});
      });
    } else if (request.path == "/size") {
      exchange->respond({200, "text/plain", fmt::format("{}", request.body.size()), {}});
    } else if (request.path == "/large") {
      exchange->respond({200, "text/plain", std::string(20'000'000, 'y'), {}});
    } else {
      exchange->respond({200,
                         "text/plain",
                         request.method + " " + request.path + " " + request.query + " " + request.body,
                         {}});
    }
  }
  bool takes_pieces(const HttpRequest& head) override {
    return head.path == "/pieces" || head.path == "/enough";
  }
  std::optional<HttpResponse> refuses(const HttpRequest& head) override {
    if (head.path != "/forbidden") return {};
    return HttpResponse{401, "text/plain", "no", {}};
  }
  HttpResponse refusal(int status, std::string_view why) override {
    return {status, "text/plain", std::string(why), {}};
  }
  void ended(const HttpRequest&, int status, int64_t, double) override { last_status = status; }
  void let_go() {
    held_.reset();
    if (flood_.joinable()) flood_.join();
  }
  ~Echo() override { let_go(); }
  // Whether somebody still has the last exchange.
  bool last_lives() {
    const std::lock_guard lock(mutex_);
    return !last_.expired();
  }

  std::atomic<int> gone{0}, last_status{0}, kept{0};

 private:
  void take(const std::shared_ptr<HttpExchange>& exchange, size_t total) {
    exchange->next_piece([this, exchange, total](const std::string& piece) {
      if (piece.empty()) {
        exchange->respond({200, "text/plain", fmt::format("{}", total), {}});
      } else {
        take(exchange, total + piece.size());
      }
    });
  }
  std::shared_ptr<HttpExchange> held_;
  std::thread flood_;
  std::mutex mutex_;
  std::weak_ptr<HttpExchange> last_;
};

class Http : public ::testing::Test {
 protected:
  Http() {
    options.port = 0;
    options.max_body_bytes = 100'000;
  }
  ~Http() override { stop(); }
  void start() {
    server.emplace(options, echo);
    thread = std::thread([this] { server->run(); });
  }
  void stop() {
    if (!thread.joinable()) return;
    server->stop();
    thread.join();
    echo.let_go();
    server.reset();
  }
  HttpReply send(const std::string& bytes) {
    HttpClient client(server->port());
    client.send(bytes);
    return client.read();
  }

  HttpOptions options;
  Echo echo;
  std::optional<HttpServer> server;
  std::thread thread;
};

}  // namespace harmonic
