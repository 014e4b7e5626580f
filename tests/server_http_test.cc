// How requests are framed and bounded, and how answers go out.
#include "tests/http_echo_fixture.h"

namespace harmonic {
namespace {

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
  const auto coded = [&](std::string_view coding) {
    return send(fmt::format("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: "
                            "{}\r\nContent-Length: 2\r\n\r\nab",
                            coding))
        .status;
  };
  EXPECT_EQ(coded("gzip"), 415);
  EXPECT_EQ(coded("Identity"), 200);
  EXPECT_EQ(send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").status, 400);
}

TEST_F(Http, SaysWhatIsWrongWithTheLengthOfABody) {
  start();
  const std::string length = "Content-Length: 3\r\n", chunked = "Transfer-Encoding: chunked\r\n";
  for (const auto& [headers, says] :
       {std::pair(length + chunked, "both Content-Length and Transfer-Encoding"),
        std::pair(chunked + length, "both Content-Length and Transfer-Encoding"),
        std::pair(length + "Content-Length: 4\r\n", "more than one Content-Length"),
        std::pair(length + length, "more than one Content-Length"),
        std::pair(std::string("Content-Length: 3, 4\r\n"), "more than one Content-Length"),
        std::pair(std::string("Content-Length: x\r\n"), "no number of bytes"),
        std::pair(chunked + chunked, "a Transfer-Encoding other than chunked")}) {
    const HttpReply reply = send("POST / HTTP/1.1\r\nHost: x\r\n" + headers + "\r\nabc");
    EXPECT_EQ(reply.status, 400) << headers;
    EXPECT_NE(reply.body.find(says), std::string::npos) << headers << reply.body;
  }
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

TEST_F(Http, AWholeAnswerOfAnySizeIsSent) {
  start();
  HttpClient client(server->port());
  EXPECT_EQ(client.get("/large").body.size(), 20'000'000u);
  EXPECT_EQ(client.get("/y").body, "GET /y  ");
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

}  // namespace
}  // namespace harmonic
