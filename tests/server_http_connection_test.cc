// How connections live and end: slow, idle and lost clients, draining, and where the server listens.
#include "harmonic/base/error.h"
#include "tests/http_echo_fixture.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

class HttpConnection : public Http {};

TEST_F(HttpConnection, AnswersThatNobodyTakesAreHeldLikeBodies) {
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

TEST_F(HttpConnection, WhoTakesNothingOfALargeAnswerIsDroppedAsSoonAsOfASmallOne) {
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

TEST_F(HttpConnection, SlowSendersAreDroppedThoughTheyGoOnSending) {
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

TEST_F(HttpConnection, AnUploadMayTakeLongerThanOneBodyWhileItComesFastEnough) {
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

TEST_F(HttpConnection, IdleConnectionsEnd) {
  options.idle_seconds = 0.2;
  start();
  HttpClient silent(server->port()), used(server->port());
  EXPECT_EQ(used.get("/").status, 200);
  EXPECT_TRUE(silent.is_closed());
  EXPECT_TRUE(used.is_closed());
}

TEST_F(HttpConnection, AReaderThatDoesNotReadIsDropped) {
  options.write_seconds = 0.3;
  options.max_unsent_bytes = 1'000'000;
  start();
  HttpClient client(server->port());
  client.receive_buffer(4096);
  client.send("GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
  for (int i = 0; i < 1000 && echo.gone == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(echo.gone, 1);
}

TEST_F(HttpConnection, AClientThatGoesAwayIsNoticed) {
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

TEST_F(HttpConnection, AClientThatOnlySendsNoMoreIsAnswered) {
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

TEST_F(HttpConnection, AClientThatSentMoreBeforeItWentAwayIsNoticedToo) {
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

TEST_F(HttpConnection, WhatIsKeptForARequestIsLetGoOfWhenItsAnswerHasLeft) {
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

TEST_F(HttpConnection, AnIdleConnectionHoldsNothingOfItsLastRequest) {
  start();
  HttpClient client(server->port());
  EXPECT_EQ(client.post("/size", std::string(90'000, 'x')).body, "90000");
  for (int i = 0; i < 100 && echo.last_lives(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(echo.last_lives());
  EXPECT_EQ(client.get("/y").status, 200);
}

TEST_F(HttpConnection, MoreConnectionsThanAllowedAreTurnedAway) {
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

TEST_F(HttpConnection, DrainingEndsWhatIsIdleAndFinishesWhatIsAtWork) {
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

TEST_F(HttpConnection, ASocketFileServesToo) {
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

TEST_F(HttpConnection, TheSocketFileOfASuccessorStays) {
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

TEST_F(HttpConnection, AnAddressThatIsTakenOrIsNoneIsAnError) {
  start();
  HttpOptions other = options;
  other.port = server->port();
  EXPECT_THROW(HttpServer(other, echo), Error);
  other.host = "no address";
  EXPECT_THROW(HttpServer(other, echo), Error);
}

}  // namespace
}  // namespace harmonic
