// What keeps a server standing: keys, names, limits, deadlines, numbers about its work.
#include <fcntl.h>

#include <future>

#include "harmonic/server/access_log.h"
#include "harmonic/server/clients.h"
#include "harmonic/server/workers.h"
#include "tests/server_fixture.h"

namespace harmonic {
namespace {

using Operation = ServerTest;

constexpr const char* kKey = "0123456789abcdef-one";
constexpr const char* kOther = "0123456789abcdef-two";
std::string bearer(const std::string& key) { return "Authorization: Bearer " + key + "\r\n"; }

TEST_F(Operation, HealthAndReadinessAreAnsweredAndNumbersGiven) {
  EXPECT_EQ(look("/health")["status"], "ok");
  EXPECT_EQ(look("/ready")["status"], "ready");
  ask("/v1/completions", {{"prompt", "abc"}, {"max_tokens", 5}, {"ignore_end", true}});
  const std::string metrics = HttpClient(port()).get("/metrics").body;
  for (const char* line :
       {"harmonic_requests_total{route=\"/v1/completions\",status=\"200\"} 1\n",
        "harmonic_written_tokens_total 5\n", "harmonic_prompt_tokens_total 3\n",
        "harmonic_time_to_first_token_seconds_count 1\n",
        "harmonic_between_tokens_seconds_bucket{le=\"+Inf\"} 4\n", "harmonic_queue_wait_seconds_count 1\n"})
    EXPECT_NE(metrics.find(line), std::string::npos) << line << metrics;
}

TEST_F(Operation, ThePageIsOneFileThatAsksNobodyElse) {
  HttpReply page = HttpClient(port()).get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_TRUE(page.body.starts_with("<!doctype html>"));
  EXPECT_TRUE(page.body.ends_with("</html>\n"));
  for (const char* other : {"http:", "https:", "src=", "@import", "innerHTML", "style=", "onclick=\""})
    EXPECT_EQ(page.body.find(other), std::string::npos) << other;
  const std::string policy = page.headers["content-security-policy"];
  EXPECT_TRUE(policy.starts_with("default-src 'none'; script-src 'sha256-")) << policy;
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
}

TEST_F(Operation, AnotherAddressThanLoopbackNeedsAKeyOrAPlainWord) {
  config.host = "0.0.0.0";
  EXPECT_THROW(start(), Error);
  config.without_api_key = true;
  start();
  EXPECT_EQ(look("/health")["status"], "ok");
}

TEST_F(Operation, WithoutAKeyOfOursNothingIsAnsweredButHealth) {
  config.api_key_file = folder_.file("keys", std::string("# keys\n") + kKey + "\n\n" + kOther + "\r\n");
  for (const std::string& wrong :
       {std::string(), bearer("x"), bearer(std::string(kKey) + "x"), bearer(std::string(kKey).substr(1)),
        std::string("Authorization: Basic abc\r\n"), std::string("Authorization: \r\n")}) {
    const HttpReply reply = HttpClient(port()).get("/v1/models", wrong);
    EXPECT_EQ(reply.status, 401) << wrong;
    EXPECT_EQ(parse_json(reply.body, "x")["error"]["type"], "authentication_error");
    EXPECT_EQ(HttpClient(port()).get("/metrics", wrong).status, 401);
    EXPECT_EQ(HttpClient(port()).get("/health", wrong).status, 200);
  }
  EXPECT_EQ(look("/v1/models", bearer(kKey))["data"].size(), 1u);
  EXPECT_EQ(look("/v1/models", bearer(kOther))["data"].size(), 1u);
}

TEST_F(Operation, AKeyThatIsNamedTwiceIsOne) {
  EXPECT_EQ(
      ApiKeys(folder_.file("keys", std::string(kKey) + "\n" + kOther + "\n" + kKey + "\n"), kOther).count(),
      2);
}

TEST_F(Operation, KeyFilesThatHoldNoKeyAreRefused) {
  config.api_key_file = folder_.file("keys", "# none\n");
  EXPECT_THROW(start(), Error);
  folder_.file("keys", "short\n");
  EXPECT_THROW(start(), Error);
  config.api_key_file = folder_ / "missing";
  EXPECT_THROW(start(), Error);
}

TEST_F(Operation, ThePromptsOfOneKeyAreNotFoundByAnother) {
  config.api_key_file = folder_.file("keys", std::string(kKey) + "\n" + kOther + "\n");
  const Json body = {{"prompt", "A secret that nobody else should guess"}, {"max_tokens", 0}};
  const auto cached = [&](const char* key) {
    return ask("/v1/completions", body, bearer(key))["usage"]["prompt_tokens_details"]["cached_tokens"]
        .get<int>();
  };
  EXPECT_EQ(cached(kKey), 0);
  EXPECT_EQ(cached(kOther), 0);
  EXPECT_EQ(cached(kKey), 38);
}

TEST_F(Operation, NamesOfOtherHostsAreRefusedOnLoopback) {
  config.allowed_hosts = {"models.example"};
  const auto status = [&](const std::string& host) {
    HttpClient client(port());
    client.send("GET /v1/models HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    return client.read().status;
  };
  for (const char* host : {"localhost", "localhost:8080", "127.0.0.1:1", "[::1]:5", "models.example"})
    EXPECT_EQ(status(host), 200) << host;
  for (const char* host : {"evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""})
    EXPECT_EQ(status(host), 403) << host;
  // The absolute form's counts in place of the header's.
  for (const auto& [target, expected] :
       {std::pair("http://localhost", 200), std::pair("http://evil.example", 403),
        std::pair("http://a@evil.example:80", 403)}) {
    HttpClient client(port());
    client.send(std::string("GET ") + target + "/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(client.read().status, expected) << target;
  }
}

TEST_F(Operation, PagesOfOtherOriginsAreRefusedUnlessNamed) {
  config.cors_origins = {"https://good.example"};
  EXPECT_EQ(HttpClient(port()).get("/v1/models", "Origin: https://evil.example\r\n").status, 403);
  EXPECT_EQ(HttpClient(port()).get("/v1/models", "Origin: http://localhost\r\n").status, 200);
  for (const char* path : {"/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/models", "/nothing"})
    EXPECT_EQ(HttpClient(port())
                  .get(path, "Origin: https://good.example\r\n")
                  .headers["access-control-allow-origin"],
              "https://good.example")
        << path;
  const HttpReply good =
      HttpClient(port()).request("OPTIONS", "/v1/completions", "Origin: https://good.example\r\n");
  EXPECT_EQ(good.status, 204);
  EXPECT_FALSE(HttpClient(port()).get("/v1/models").headers.contains("access-control-allow-origin"));
}

TEST_F(Operation, MoreThanAClientMayIsRefusedWithATimeToComeBack) {
  config.concurrent_per_client = 2;
  HttpClient one(port()), two(port());
  const std::string body = R"({"prompt":"a","max_tokens":60000,"ignore_end":true,"stream":true})";
  one.send_post("/v1/completions", body);
  two.send_post("/v1/completions", body);
  EXPECT_EQ(one.read_head().status, 200);
  EXPECT_EQ(two.read_head().status, 200);
  HttpReply reply = post("/v1/completions", {{"max_tokens", 1}});
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(reply.headers["retry-after"], "1");
  one.close();  // whose text is then no longer written
  for (int i = 0; i < 500 && reply.status == 429; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    reply = post("/v1/completions", {{"max_tokens", 1}});
  }
  EXPECT_EQ(reply.status, 200);
}

TEST_F(Operation, ARequestCountsAsItsClientsUntilItsAnswerHasLeft) {
  config.concurrent_per_client = 1;
  HttpClient slow(port());
  slow.receive_buffer(4096);
  // About 12 MB of answer.
  slow.send_post(
      "/v1/completions",
      Json{{"prompt", std::string(20'000, 'x')}, {"echo", true}, {"logprobs", 20}, {"max_tokens", 1}}.dump());
  EXPECT_EQ(slow.read_head().status, 200);
  const Json small = {{"prompt", "a"}, {"max_tokens", 1}};
  EXPECT_EQ(post("/v1/completions", small).status, 429);
  EXPECT_EQ(look("/health")["status"], "ok");
  slow.close();
  HttpReply reply = post("/v1/completions", small);
  for (int i = 0; i < 1000 && reply.status == 429; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    reply = post("/v1/completions", small);
  }
  EXPECT_EQ(reply.status, 200);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(post("/v1/completions", small).status, 200) << "one after the other";
}

TEST_F(Operation, AnswersThatWouldBeTooLargeAreRefused) {
  Json body = {{"prompt", "a"}, {"n", 128}, {"max_tokens", 65'536}, {"ignore_end", true}};
  HttpReply reply = post("/v1/completions", body);
  EXPECT_EQ(reply.status, 400) << reply.body.substr(0, 200);
  EXPECT_EQ(parse_json(reply.body, "x")["error"]["param"], "max_tokens");
  body = {{"prompt", "a"}, {"n", 128}, {"max_tokens", 1500}, {"ignore_end", true}, {"logprobs", 20}};
  EXPECT_EQ(post("/v1/completions", body).status, 400);
  // What leaves at once is not held.
  body["stream"] = true;
  HttpClient stream(port());
  stream.send_post("/v1/completions", body.dump());
  EXPECT_EQ(stream.read_head().status, 200);
}

TEST_F(Operation, OneRequestForManyLongTextsLeavesRoomForOthers) {
  config.api_key_file = folder_.file("keys", std::string(kKey) + "\n" + kOther + "\n");
  config.batch = 4;
  HttpClient greedy(port());
  greedy.send_post("/v1/completions",
                   R"({"prompt":"a","n":32,"max_tokens":65536,"ignore_end":true,"stream":true})",
                   bearer(kKey));
  EXPECT_EQ(greedy.read_head().status, 200);
  while (HttpClient(port()).get("/metrics", bearer(kKey)).body.find("harmonic_texts_working 4\n") ==
         std::string::npos)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ask("/v1/completions", {{"prompt", "a"}, {"max_tokens", 3}}, bearer(kOther));
}

TEST_F(Operation, ATooFullQueueIsSaid) {
  config.batch = 1;
  config.queue = 1;
  HttpClient one(port()), two(port());
  const std::string body = R"({"prompt":"a","max_tokens":60000,"ignore_end":true,"stream":true})";
  one.send_post("/v1/completions", body);
  EXPECT_EQ(one.read_head().status, 200);
  std::string chunk;
  one.read_chunk(chunk);  // it is at work, and no longer in the queue
  two.send_post("/v1/completions", body);
  EXPECT_EQ(two.read_head().status, 200);
  const HttpReply reply = post("/v1/completions", {{"max_tokens", 1}});
  EXPECT_EQ(reply.status, 503);
  EXPECT_TRUE(reply.headers.contains("retry-after"));
  EXPECT_EQ(look("/health")["status"], "ok");
}

TEST_F(Operation, RequestsAMinuteAreBounded) {
  ClientLimits limits(10, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(limits.begin("a"));
    limits.end("a");
  }
  const auto refused = limits.begin("a");
  ASSERT_TRUE(refused);
  EXPECT_GT(refused->retry_after, 0);
  EXPECT_LE(refused->retry_after, 20);
  EXPECT_FALSE(limits.begin("b"));
}

TEST_F(Operation, ARequestThatTakesTooLongIsCut) {
  config.request_seconds = 0.3;
  const Json answer = ask("/v1/completions", {{"max_tokens", 65536}, {"ignore_end", true}});
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_LT(answer["usage"]["completion_tokens"], 65536);
}

TEST_F(Operation, APromptThatIsNotReadInTimeIsRefusedWithATimeToComeBack) {
  config.request_seconds = 0.05;
  const std::string text(1'000'000, 'x');
  for (const char* path : {"/v1/completions", "/v1/score"}) {
    const HttpReply reply = post(path, {{path[4] == 'c' ? "prompt" : "text", text}});
    EXPECT_EQ(reply.status, 503) << reply.body;
    EXPECT_TRUE(reply.headers.contains("retry-after")) << path;
  }
}

TEST_F(Operation, APieceOfAnUploadThatIsNotReadInTimeEndsItsAnswer) {
  config.request_seconds = 0.001;
  const HttpReply reply = HttpClient(port()).post("/v1/score/stream", std::string(200'000, 'x'));
  EXPECT_NE(reply.body.find("took too long"), std::string::npos) << reply.body.substr(0, 200);
}

TEST_F(Operation, WithoutAQueueARequestIsAnsweredWhileTheBatchHasRoom) {
  config.queue = 0;
  EXPECT_EQ(post("/v1/completions", {{"max_tokens", 3}}).status, 200);
}

TEST_F(Operation, OfSeveralTextsThatDoNotFitInTheQueueTheRequestIsRefusedAsAWhole) {
  config.batch = 1;
  config.queue = 2;
  Json body = {
      {"prompt", {"a", "b", "c", "d", "e", "f", "g", "h"}}, {"max_tokens", 3000}, {"ignore_end", true}};
  EXPECT_EQ(post("/v1/completions", body).status, 503);
  body["stream"] = true;
  const HttpReply reply = post("/v1/completions", body);
  EXPECT_NE(reply.body.find("\"code\":\""), std::string::npos);
  EXPECT_EQ(look("/health")["status"], "ok");
}

// Names are compared each with each: a body of many would keep a thread busy for minutes.
TEST_F(Operation, BodiesOfManyNamesAndThoseThatGoOnBehindAZeroByteAreRefused) {
  std::string many = "{\"user\":{";
  for (int i = 0; i < 257; ++i) many += fmt::format("{}\"k{}\":1", i > 0 ? "," : "", i);
  const auto message = [&](const std::string& body) {
    const HttpReply reply = HttpClient(port()).post("/v1/completions", body);
    EXPECT_EQ(reply.status, 400) << reply.body.substr(0, 200);
    EXPECT_LT(reply.body.size(), 1000u);
    return parse_json(reply.body, "the answer")["error"]["message"].get<std::string>();
  };
  EXPECT_NE(message(many + "}}").find("more than 256 names"), std::string::npos);
  EXPECT_NE(message(std::string("{\"max_tokens\":1}\0{", 18)).find("zero byte"), std::string::npos);
  EXPECT_NE(message("{\"max_tokens\":" + std::string(10'000, '1') + "}").find("number overflow"),
            std::string::npos);
}

TEST_F(Operation, PromptsAreBounded) {
  config.max_prompt_tokens = 10;
  EXPECT_EQ(post("/v1/completions", {{"prompt", "12345678901"}}).status, 400);
  EXPECT_EQ(post("/v1/completions", {{"prompt", {"123456", "12345"}}}).status, 400);
  EXPECT_EQ(post("/v1/completions", {{"prompt", "1234567890"}, {"max_tokens", 0}}).status, 200);
}

TEST_F(Operation, TheAccessLogHasALineARequestAndNothingOfTheClients) {
  config.access_log = folder_ / "access";
  HttpClient(port()).get("/secret-path?token=abc");
  look("/health");
  stop();
  const std::string log = read_file(folder_ / "access");
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2);
  EXPECT_EQ(log.find("secret"), std::string::npos);
  EXPECT_EQ(parse_json(log.substr(0, log.find('\n')), "log")["status"], 404);
}

TEST_F(Operation, TheAccessLogKnowsWhoSentWhatIsNoRequest) {
  config.access_log = folder_ / "access";
  HttpClient client(port());
  client.send("nonsense\r\n\r\n");
  EXPECT_EQ(client.read().status, 400);
  stop();
  EXPECT_EQ(parse_json(read_file(folder_ / "access"), "log")["client"], "127.0.0.1");
}

// Standard error as a pipe that nobody reads until the end of this.
class UnreadErrors {
 public:
  UnreadErrors() : before_(::dup(STDERR_FILENO)) {
    if (::pipe2(ends_, O_CLOEXEC) != 0) std::abort();
    ::dup2(ends_[1], STDERR_FILENO);
    ::close(ends_[1]);
  }
  ~UnreadErrors() {
    restore();
    ::close(ends_[0]);
  }
  // What was written, once this process has let go of the pipe.
  std::string read_all() {
    restore();
    std::string all;
    char bytes[4096];
    for (ssize_t got; (got = ::read(ends_[0], bytes, sizeof bytes)) > 0;)
      all.append(bytes, static_cast<size_t>(got));
    return all;
  }

 private:
  void restore() {
    if (before_ < 0) return;
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
    before_ = -1;
  }
  int before_, ends_[2];
};

TEST_F(Operation, ALogWhoseReaderStandsStillHoldsUpNobody) {
  UnreadErrors errors;
  config.access_log = "-";
  HttpClient client(port());
  for (int i = 0; i < 3000; ++i) ASSERT_EQ(client.get("/health").status, 200) << i;
  stop();  // what nobody reads is not waited for
  const std::string log = errors.read_all();
  EXPECT_GT(log.size(), 10'000u);
  EXPECT_EQ(parse_json(log.substr(0, log.find('\n')), "log")["route"], "/health");
}

TEST(AccessLog, LinesBeyondThoseThatMayWaitAreCounted) {
  TemporaryFolder folder;
  {
    AccessLog log(folder / "log");
    for (size_t i = 0; i < 20 * AccessLog::kMostWaiting; ++i) log.add("x");
  }
  size_t written = 0, dropped = 0;
  const std::string text = read_file(folder / "log");
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    if (text[at] == 'x') {
      ++written;
    } else {
      dropped += parse_json(text.substr(at, text.find('\n', at) - at), "log")["dropped"].get<size_t>();
    }
  }
  EXPECT_EQ(written + dropped, 20 * AccessLog::kMostWaiting);
}

TEST(Workers, SurviveWhateverTheirWorkThrows) {
  Workers workers(1);
  workers.post([] { throw 1; });
  workers.post([] { throw std::runtime_error("this test's"); });
  std::promise<void> done;
  workers.post([&] { done.set_value(); });
  done.get_future().wait();
}

TEST_F(Operation, NamesThatAreWrittenInOtherLettersAreTheSame) {
  config.api_key_file = folder_.file("keys", std::string(kKey) + "\n");
  HttpClient client(port());
  const auto status = [&](const std::string& host, const std::string& scheme, const std::string& type) {
    client.send("POST /tokenize HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: " + scheme + " " + kKey +
                "\r\nContent-Type: " + type + "\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}");
    return client.read().status;
  };
  EXPECT_EQ(status("LocalHost", "Bearer", "application/json"), 200);
  EXPECT_EQ(status("localhost", "bearer", "Application/JSON; charset=utf-8"), 200);
  EXPECT_EQ(status("localhost", "Bearer", "application/json\t; charset=utf-8"), 200);
  EXPECT_EQ(status("localhost", "Bearer", "application/jsonp"), 415);
}

TEST_F(Operation, AHostThatIsNoAddressIsSaidToBeNone) {
  config.host = "localhost";
  try {
    start();
    FAIL() << "localhost is a name";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("expected an address"), std::string::npos) << error.what();
  }
}

TEST_F(Operation, WhoAsksWhetherItIsReadyMayCallItByAnyName) {
  const auto status = [&](const std::string& path) {
    HttpClient client(port());
    client.send("GET " + path + " HTTP/1.1\r\nHost: 10.0.0.7:8080\r\n\r\n");
    return client.read().status;
  };
  EXPECT_EQ(status("/ready"), 200);
  EXPECT_EQ(status("/health"), 200);
  EXPECT_EQ(status("/v1/models"), 403);
  EXPECT_EQ(status("/metrics"), 403);
}

TEST_F(Operation, ALoadBalancerSeesThatItGoesDownBeforeAnybodyIsRefused) {
  config.notice_seconds = 1;
  HttpClient kept(port());
  EXPECT_EQ(kept.get("/ready").status, 200);
  const auto begin = std::chrono::steady_clock::now();
  server->stop();
  HttpReply ready;
  for (int i = 0; i < 100 && ready.status != 503; ++i) ready = kept.get("/ready");
  EXPECT_EQ(ready.status, 503);
  EXPECT_TRUE(ready.headers.contains("retry-after"));
  EXPECT_EQ(HttpClient(port()).get("/ready").status, 503) << "on a new connection too";
  EXPECT_EQ(look("/health")["status"], "ok");
  EXPECT_EQ(kept.post("/v1/completions", R"({"max_tokens":3})").status, 200);
  EXPECT_TRUE(kept.is_closed());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(900));
  EXPECT_FALSE(HttpClient(port()).connected());
}

TEST_F(Operation, GoingDownFinishesWhatIsAtWork) {
  HttpClient client(port());
  client.send_post("/v1/completions", R"({"prompt":"a","max_tokens":3000,"ignore_end":true,"stream":true})");
  EXPECT_EQ(client.read_head().status, 200);
  server->stop();
  std::string body;
  for (std::string chunk; client.read_chunk(chunk);) body += chunk;
  EXPECT_TRUE(body.ends_with("data: [DONE]\n\n"));
  EXPECT_NE(body.find("\"finish_reason\":\"length\""), std::string::npos);
}

}  // namespace
}  // namespace harmonic
