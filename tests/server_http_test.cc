#include "harmonic/server/http_server.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <atomic>
#include <mutex>

#include "harmonic/base/error.h"
#include "tests/http_client.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

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

TEST_F(Http, AnswersOneRequestAfterAnotherOnAConnection) {
  start();
  HttpClient client(server->port());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.get("/a?b=c").body, "GET /a b=c ");
    EXPECT_EQ(client.post("/p", "body").body, "POST /p  body");
  }
  // Several that are sent before the first is answered.
  client.send(
      "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /3 "
      "HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read().body, "GET /1  ");
  EXPECT_EQ(client.read().body, "POST /2  abc");
  EXPECT_EQ(client.read().body, "GET /3  ");
}

TEST_F(Http, TakesABodyHoweverItIsFramed) {
  start();
  EXPECT_EQ(
      send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
          .body,
      "POST /  abcde");
  HttpClient client(server->port());
  client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.read().status, 100);
  client.send("ab");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  client.send("cde");
  EXPECT_EQ(client.read().body, "POST /  abcde");
  const std::string large(90'000, 'z');
  EXPECT_EQ(client.post("/", large).body, "POST /  " + large);
}

TEST_F(Http, RefusesWhatTwoReadersCouldReadDifferently) {
  start();
  for (const char* headers :
       {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n", "Content-Length: 3, 3\r\n", "Content-Length: -3\r\n",
        "Content-Length: +3\r\n", "Content-Length: 0x3\r\n", "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n", "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Bad Header: x\r\n", "Host: y\r\n"}) {
    const HttpReply reply =
        send("POST / HTTP/1.1\r\nHost: x\r\n" + std::string(headers) + "\r\nabc\r\n0\r\n\r\n");
    EXPECT_EQ(reply.status, 400) << headers;
    EXPECT_EQ(reply.headers.at("connection"), "close") << headers;
  }
  EXPECT_EQ(send("GET / HTTP/1.1\r\n\r\n").status, 400);
  EXPECT_EQ(send("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").status, 400);
  EXPECT_EQ(send("nonsense\r\n\r\n").status, 400);
  EXPECT_EQ(send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").status, 400);
}

TEST_F(Http, BoundsHeadersAndBodies) {
  options.max_header_bytes = 2000;
  options.max_headers = 10;
  start();
  EXPECT_EQ(send("GET /" + std::string(3000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n").status, 431);
  std::string many = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 10; ++i) many += fmt::format("X-{}: 1\r\n", i);
  EXPECT_EQ(send(many + "\r\n").status, 431);
  EXPECT_EQ(send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n").status, 413);
  const std::string chunk = "c350\r\n" + std::string(50'000, 'b') + "\r\n";
  EXPECT_EQ(
      send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + chunk + chunk).status,
      413);
  EXPECT_EQ(
      send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + chunk + "0\r\n\r\n")
          .status,
      200);
}

TEST_F(Http, WhatFramesABodyIsBoundedToo) {
  options.max_header_bytes = 2000;
  start();
  // Extensions of a chunk, zeros before its size, trailers behind the last: none of them is a body.
  for (const std::string& framing :
       {"1;a=" + std::string(400'000, 'x'), std::string(400'000, '0') + "1\r\nx\r\n",
        "0\r\nA: " + std::string(400'000, 'x')}) {
    HttpClient client(server->port());
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + framing);
    EXPECT_EQ(client.read().status, 400) << framing.substr(0, 10);
  }
}

TEST_F(Http, ABodyThatIsALittleTooLargeIsReadSoThatTheAnswerIsSeen) {
  options.max_body_bytes = 8'000'000;
  start();
  HttpClient client(server->port());
  EXPECT_TRUE(client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8000001\r\n\r\n"));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(client.send(std::string(8'000'001, 'x')));
  EXPECT_EQ(client.read().status, 413);
}

TEST_F(Http, AnswersThatNobodyTakesAreHeldLikeBodies) {
  options.max_held_bytes = 30'000'000;
  start();
  HttpClient one(server->port()), two(server->port());
  one.receive_buffer(4096);
  one.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
  one.read_head();
  EXPECT_EQ(two.get("/large").status, 503);
  EXPECT_EQ(two.get("/small").status, 200) << "there is always room for small ones";
  one.close();
  for (int i = 0; i < 1000 && echo.last_status != 200; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(two.get("/large").status, 200);
}

TEST_F(Http, WhoTakesNothingOfALargeAnswerIsDroppedAsSoonAsOfASmallOne) {
  options.write_seconds = 0.3;
  start();
  HttpClient client(server->port());
  client.receive_buffer(4096);
  client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
  client.read_head();
  for (int i = 0; i < 1000 && server->connections() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(server->connections(), 0);
}

TEST_F(Http, WhoMayNotAskIsAnsweredBeforeTheBodyComes) {
  start();
  const HttpReply reply = send("POST /forbidden HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
  EXPECT_EQ(reply.status, 401);
  EXPECT_EQ(reply.headers.at("connection"), "close");
}

TEST_F(Http, TheBodiesOfAllConnectionsTogetherAreBounded) {
  options.max_held_bytes = 100'000;
  start();
  HttpClient one(server->port()), two(server->port());
  one.send("POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + std::string(80'000, 'x'));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  two.send("POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + std::string(80'000, 'x'));
  EXPECT_EQ(two.read().status, 503);
  one.send(std::string(10'000, 'x'));
  EXPECT_EQ(one.read().status, 200);
  EXPECT_EQ(one.post("/size", std::string(90'000, 'y')).status, 200) << "what was answered is let go of";
}

TEST_F(Http, AHeadHasABodyElsewhere) {
  start();
  HttpClient client(server->port());
  client.send("HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n");
  const HttpReply head = client.read(false);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "9");
  EXPECT_EQ(client.get("/y").body, "GET /y  ");
}

TEST_F(Http, HttpOneZeroGetsAnAnswerAndItsConnectionEnds) {
  start();
  HttpClient client(server->port());
  client.send("GET /stream HTTP/1.0\r\n\r\n");
  const HttpReply reply = client.read();
  EXPECT_FALSE(reply.headers.contains("transfer-encoding"));
  EXPECT_EQ(reply.body, "onetwo");
}

TEST_F(Http, StreamsComeInChunksAndTheConnectionGoesOn) {
  start();
  HttpClient client(server->port());
  EXPECT_EQ(client.get("/stream").body, "onetwo");
  EXPECT_EQ(client.get("/y").body, "GET /y  ");
}

TEST_F(Http, PiecesThatComeSoonAfterAnotherLeaveTogetherButTheFirstAndTheEndAtOnce) {
  options.gather_seconds = 60;
  start();
  HttpClient client(server->port());
  const auto begin = std::chrono::steady_clock::now();
  client.send("GET /slowly HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_head().status, 200);
  std::vector<std::string> chunks;
  for (std::string chunk; client.read_chunk(chunk);) chunks.push_back(chunk);
  EXPECT_EQ(chunks, (std::vector<std::string>{"one ", "two three "}));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  EXPECT_EQ(client.get("/y").body, "GET /y  ");
}

TEST_F(Http, WhatIsGatheredLeavesInTime) {
  options.gather_seconds = 0.02;
  start();
  HttpClient client(server->port());
  client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");  // which goes on after two pieces
  EXPECT_EQ(client.read_head().status, 200);
  std::string all;
  for (std::string chunk; all != "onetwo" && client.read_chunk(chunk);) all += chunk;
  EXPECT_EQ(all, "onetwo");
}

TEST_F(Http, ASilentStreamOfEventsSaysThatItLives) {
  options.keep_alive_seconds = 0.05;
  start();
  HttpClient client(server->port());
  client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_head().status, 200);
  std::string all;
  for (std::string chunk; all.find("\n\n") == std::string::npos && client.read_chunk(chunk);) all += chunk;
  EXPECT_TRUE(all.starts_with("onetwo: ")) << all;
}

TEST_F(Http, SlowSendersAreDroppedThoughTheyGoOnSending) {
  options.header_seconds = options.body_seconds = 0.4;
  start();
  for (const char* begin : {"", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n",
                            "POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n"}) {
    HttpClient client(server->port());
    client.send(begin);
    const auto started = std::chrono::steady_clock::now();
    while (client.send("G") && !client.is_closed(0.05) &&
           std::chrono::steady_clock::now() - started < std::chrono::seconds(20))
      continue;
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(10));
  }
}

TEST_F(Http, AnUploadMayTakeLongerThanOneBodyWhileItComesFastEnough) {
  options.body_seconds = 0.4;
  start();
  HttpClient client(server->port());
  client.send("POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n");
  for (int i = 0; i < 20; ++i) {
    client.send(std::string(1000, 'x'));
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
  }
  EXPECT_EQ(client.read().body, "20000");
}

TEST_F(Http, IdleConnectionsEnd) {
  options.idle_seconds = 0.2;
  start();
  HttpClient silent(server->port()), used(server->port());
  EXPECT_EQ(used.get("/").status, 200);
  EXPECT_TRUE(silent.is_closed());
  EXPECT_TRUE(used.is_closed());
}

TEST_F(Http, AReaderThatDoesNotReadIsDropped) {
  options.write_seconds = 0.3;
  options.max_unsent_bytes = 1'000'000;
  start();
  HttpClient client(server->port());
  client.receive_buffer(4096);
  client.send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
  for (int i = 0; i < 1000 && echo.gone == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.gone, 1);
}

TEST_F(Http, AWholeAnswerOfAnySizeIsSent) {
  start();
  HttpClient client(server->port());
  EXPECT_EQ(client.get("/large").body.size(), 20'000'000u);
  EXPECT_EQ(client.get("/y").body, "GET /y  ");
}

TEST_F(Http, AClientThatGoesAwayIsNoticed) {
  start();
  HttpClient client(server->port());
  client.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(echo.gone, 0);
  client.close();
  for (int i = 0; i < 1000 && echo.gone == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.gone, 1);
  EXPECT_EQ(echo.last_status, 499);
}

TEST_F(Http, AClientThatOnlySendsNoMoreIsAnswered) {
  start();
  HttpClient late(server->port()), stream(server->port());
  late.send("GET /late HTTP/1.1\r\nHost: x\r\n\r\n");
  late.send_no_more();
  HttpReply reply = late.read();
  // Which is how one that has gone would be found out.
  EXPECT_EQ(reply.status, 100);
  reply = late.read();
  EXPECT_EQ(reply.body, "late") << "and that once";
  EXPECT_TRUE(late.is_closed());
  echo.let_go();
  stream.send("GET /slowly HTTP/1.1\r\nHost: x\r\n\r\n");
  stream.send_no_more();
  EXPECT_EQ(stream.read().body, "one two three ");
}

TEST_F(Http, AClientThatSentMoreBeforeItWentAwayIsNoticedToo) {
  start();
  HttpClient client(server->port());
  client.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  client.send("G");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(echo.gone, 0);
  client.close();
  for (int i = 0; i < 1000 && echo.gone == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.gone, 1);
}

TEST_F(Http, WhatIsKeptForARequestIsLetGoOfWhenItsAnswerHasLeft) {
  start();
  HttpClient slow(server->port()), quick(server->port());
  slow.receive_buffer(4096);
  slow.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
  slow.read_head();
  EXPECT_EQ(quick.get("/y").status, 200);
  for (int i = 0; i < 100 && echo.kept > 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.kept, 1) << "the large answer is on its way";
  slow.close();
  for (int i = 0; i < 1000 && echo.kept > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.kept, 0);
}

TEST_F(Http, AnIdleConnectionHoldsNothingOfItsLastRequest) {
  start();
  HttpClient client(server->port());
  EXPECT_EQ(client.post("/size", std::string(90'000, 'x')).body, "90000");
  for (int i = 0; i < 100 && echo.last_lives(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(echo.last_lives());
  EXPECT_EQ(client.get("/y").status, 200);
}

TEST_F(Http, WhoseUploadIsRefusedMidwayIsToldThatTheConnectionEnds) {
  start();
  HttpClient client(server->port());
  client.send("POST /enough HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
  const HttpReply reply = client.read();
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.headers.count("connection"), 1u);
  EXPECT_TRUE(client.is_closed());
}

TEST_F(Http, TheAbsoluteFormOfARequestNamesItsHost) {
  start();
  HttpClient client(server->port());
  for (const auto& [target, expected] :
       {std::pair("http://a:8080/b?c", "GET /b c "), std::pair("HTTPS://a", "GET /  "),
        std::pair("http://a?c", "GET / c "), std::pair("/http://a/", "GET /http://a/  ")}) {
    client.send(std::string("GET ") + target + " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(client.read().body, expected);
  }
}

TEST_F(Http, AnUploadInPiecesHasNoLimitButPasses) {
  start();
  HttpClient client(server->port());
  client.send("POST /pieces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 50; ++i) client.send("4e20\r\n" + std::string(20'000, 'x') + "\r\n");
  client.send("0\r\n\r\n");
  EXPECT_EQ(client.read().body, "1000000");
  EXPECT_EQ(client.post("/pieces", "abc").body, "3");
  EXPECT_EQ(client.post("/pieces", "").body, "0");
  client.send("POST /pieces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  client.close();
  for (int i = 0; i < 1000 && echo.gone == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.gone, 1);
}

TEST_F(Http, MoreConnectionsThanAllowedAreTurnedAway) {
  options.max_connections = 2;
  start();
  HttpClient one(server->port()), two(server->port());
  EXPECT_EQ(one.get("/").status, 200);
  EXPECT_EQ(two.get("/").status, 200);
  HttpClient three(server->port());
  const HttpReply reply = three.read();
  EXPECT_EQ(reply.status, 503);
  EXPECT_TRUE(reply.headers.contains("retry-after"));
}

TEST_F(Http, DrainingEndsWhatIsIdleAndFinishesWhatIsAtWork) {
  start();
  HttpClient idle(server->port()), busy(server->port());
  EXPECT_EQ(idle.get("/").status, 200);
  busy.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(busy.read_head().status, 200);
  server->drain(0.5);
  EXPECT_TRUE(idle.is_closed());
  EXPECT_FALSE(HttpClient(server->port()).connected());
  thread.join();  // at the deadline: this stream has no end
  echo.let_go();
  server.reset();
}

TEST_F(Http, ASocketFileServesToo) {
  TemporaryFolder folder;
  options.unix_socket = folder / "socket";
  start();
  HttpClient client(options.unix_socket);
  EXPECT_EQ(client.get("/x").body, "GET /x  ");
  EXPECT_THROW(HttpServer(options, echo), Error) << "somebody listens there";
  stop();
  EXPECT_FALSE(std::filesystem::exists(options.unix_socket));
  folder.file("socket", "");
  EXPECT_THROW(HttpServer(options, echo), Error) << "a file that is no socket";
}

TEST_F(Http, TheSocketFileOfASuccessorStays) {
  TemporaryFolder folder;
  options.unix_socket = folder / "socket";
  start();
  HttpClient busy(options.unix_socket);
  busy.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(busy.read_head().status, 200);
  server->drain(30);
  while (HttpClient(options.unix_socket).connected())
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  {
    HttpServer successor(options, echo);
    stop();
    EXPECT_TRUE(std::filesystem::exists(options.unix_socket));
    EXPECT_TRUE(HttpClient(options.unix_socket).connected());
  }
  EXPECT_FALSE(std::filesystem::exists(options.unix_socket));
}

TEST_F(Http, AnAddressThatIsTakenOrIsNoneIsAnError) {
  start();
  HttpOptions other = options;
  other.port = server->port();
  EXPECT_THROW(HttpServer(other, echo), Error);
  other.host = "no address";
  EXPECT_THROW(HttpServer(other, echo), Error);
}

}  // namespace
}  // namespace harmonic
