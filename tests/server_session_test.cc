// Texts that a server keeps.
#include "tests/redis_server.h"
#include "tests/session_routes.h"

namespace harmonic {
namespace {

TEST_F(SessionRoutes, ATextInTurnsIsOneText) {
  const std::string expected = text_at_once("Once upon a time", 40);
  const std::string id = create();
  ask(path(id, "append"), {{"prompt", "Once upon "}});
  std::string text = text_of(go_on(id, "a time", 15));
  EXPECT_EQ(look("/v1/sessions/" + id)["tokens"], 1 + 16 + 15);
  stop();  // and on, in another process as it were
  text += text_of(go_on(id, "", 25));
  EXPECT_EQ(text, expected);
}

TEST_F(SessionRoutes, AForkGoesOnByItselfAndACheckpointIsComeBackTo) {
  const std::string id = create();
  ask(path(id, "append"), {{"prompt", "It was a dark"}});
  ask(path(id, "checkpoint"), {{"name", "dark"}});
  const std::string expected = text_of(go_on(id, " and", 20));
  const Json forks = ask(path(id, "fork"), {{"n", 3}})["data"];
  ASSERT_EQ(forks.size(), 3u);
  EXPECT_EQ(forks[0]["parent"], id);
  const std::string fork = forks[1]["id"];
  const std::string further = text_of(go_on(fork, "x", 10));
  EXPECT_EQ(text_of(go_on(forks[2]["id"], "x", 10)), further);
  for (const std::string& one : {id, fork}) {
    ask(path(one, "rewind"), {{"name", "dark"}});
    EXPECT_EQ(text_of(go_on(one, " and", 20)), expected);
  }
  EXPECT_EQ(post(path(id, "rewind"), {{"name", "light"}}).status, 404);
  EXPECT_EQ(look("/v1/sessions?limit=2")["data"].size(), 2u);
  EXPECT_EQ(look("/v1/sessions")["data"].size(), 4u);
  EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/" + id).status, 200);
  EXPECT_EQ(HttpClient(port()).get("/v1/sessions/" + id).status, 404);
  EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/" + id).status, 404);
}

TEST_F(SessionRoutes, AStreamGoesOnTooAndASessionThatIsAtWorkIsNotTakenTwice) {
  const std::string id = create();
  HttpClient client(port());
  client.send_post(path(id, "generate"),
                   R"({"prompt":"a","max_tokens":60000,"ignore_end":true,"stream":true})");
  EXPECT_EQ(client.read_head().status, 200);
  HttpReply reply = post(path(id, "generate"), {{"max_tokens", 1}});
  EXPECT_EQ(reply.status, 409);
  EXPECT_TRUE(reply.headers.contains("retry-after"));
  client.close();
  for (int i = 0; i < 500 && reply.status == 409; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    reply = post(path(id, "generate"), {{"max_tokens", 0}});
  }
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(look("/v1/sessions/" + id)["tokens"], 1) << "what was cut off has left no trace";
  std::string text;
  Json session;
  for (const Json& event : events_of(
           post(path(id, "generate"),
                {{"prompt", "ab"}, {"max_tokens", 9}, {"seed", 7}, {"ignore_end", true}, {"stream", true}})
               .body)) {
    if (!event["choices"].empty()) text += event["choices"][0]["text"].get<std::string>();
    if (event.contains("session")) session = event["session"];
  }
  EXPECT_EQ(text, text_at_once("ab", 9));
  EXPECT_EQ(session["tokens"], 12);
}

// A state that anybody may have made, whose numbers no next token leaves finite.

// The same, where it comes with the request. Whatever a state leads to, it is the request's fault, and not

// the server's.

TEST_F(SessionRoutes, AStoredAnswerIsGoneOnFromByItsId) {
  const std::string expected = text_at_once("Far away", 25);
  const Json first =
      ask("/v1/completions",
          {{"prompt", "Far away"}, {"max_tokens", 10}, {"seed", 7}, {"ignore_end", true}, {"store", true}});
  for (int i = 0; i < 2; ++i) {
    const Json second =
        ask("/v1/completions",
            {{"previous_response_id", first["id"]}, {"max_tokens", 15}, {"seed", 7}, {"ignore_end", true}});
    EXPECT_EQ(text_of(first) + text_of(second), expected);
  }
  EXPECT_EQ(post("/v1/completions", {{"previous_response_id", "cmpl-none"}}).status, 404);
}

TEST_F(SessionRoutes, TheSessionsOfOneKeyAreNotThereForAnother) {
  config.api_key_file = folder_.file("keys", "0123456789abcdef-one\n0123456789abcdef-two\n");
  const std::string one = "Authorization: Bearer 0123456789abcdef-one\r\n",
                    two = "Authorization: Bearer 0123456789abcdef-two\r\n";
  const std::string id = ask("/v1/sessions", Json::object(), one)["id"];
  EXPECT_EQ(look("/v1/sessions/" + id, one)["id"], id);
  EXPECT_EQ(HttpClient(port()).get("/v1/sessions/" + id, two).status, 404);
  EXPECT_EQ(look("/v1/sessions", two)["data"].size(), 0u);
  const std::string token = ask("/v1/completions", {{"max_tokens", 1}, {"return_state", true}}, one)["state"];
  EXPECT_EQ(post("/v1/completions", {{"state", token}}, two).status, 400);
  EXPECT_EQ(post("/v1/completions", {{"state", token}}, one).status, 200);
}

// Two servers, as behind a load balancer, that keep their sessions in one Redis.

class SharedSessions : public SessionRoutes {
 protected:
  void SetUp() override {
    if (!redis_is_installed()) GTEST_SKIP() << kNoRedis;
    redis_.emplace();
    config.sessions = redis_->address();
    config.session_memory_mb = 1;
    start();
    other_.emplace(config, load_model_folder(folder_ / "model", cpu_backend()), "tiny", 1);
    other_thread_ = std::thread([this] { other_->run(false); });
  }
  ~SharedSessions() override {
    if (!other_) return;
    other_->stop();
    other_thread_.join();
  }
  HttpReply post_to(int port_of_one, const std::string& path, const Json& body) {
    return HttpClient(port_of_one).post(path, body.dump());
  }

  std::optional<RedisServer> redis_;
  std::optional<Server> other_;
  std::thread other_thread_;
};

TEST_F(SharedSessions, ATextGoesOnOnWhicheverServerItsNextTurnReaches) {
  const std::string expected = text_at_once("Once upon a time", 40);
  const std::string id = create();
  std::string text;
  for (int turn = 0; turn < 8; ++turn) {
    const Json body = {{"prompt", turn == 0 ? "Once upon a time" : ""},
                       {"max_tokens", 5},
                       {"seed", 7},
                       {"ignore_end", true}};
    const HttpReply reply = post_to(turn % 2 == 0 ? other_->port() : port(), path(id, "generate"), body);
    text += text_of(json_of(reply));
  }
  EXPECT_EQ(text, expected);
  EXPECT_EQ(json_of(post_to(other_->port(), path(id, "fork"), {{"n", 3}}))["data"].size(), 3u);
  EXPECT_EQ(look("/v1/sessions")["data"].size(), 4u);
  EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/" + id).status, 200);
  EXPECT_EQ(HttpClient(other_->port()).get("/v1/sessions/" + id).status, 404);
}

TEST_F(SharedSessions, OfTwoThatGoOnAtOnceTheFirstCountsAndTheOtherIsToldSo) {
  const std::string id = create();
  HttpClient slow(other_->port());
  slow.send_post(path(id, "generate"),
                 R"({"prompt":"slow","max_tokens":60000,"ignore_end":true,"stream":true})");
  EXPECT_EQ(slow.read_head().status, 200);
  ask(path(id, "append"), {{"prompt", "ab"}});
  std::string rest;
  for (std::string chunk; slow.read_chunk(chunk);) rest += chunk;
  EXPECT_NE(rest.find("session_in_use"), std::string::npos) << rest.substr(rest.size() - 300);
  EXPECT_EQ(look("/v1/sessions/" + id)["tokens"], 3);
}

TEST_F(SharedSessions, WhileTheStoreIsGoneAllElseIsAnsweredAndSessionsSayWhy) {
  const std::string id = create();
  redis_->freeze();
  HttpClient waiting(port());
  waiting.send_post(path(id, "append"), R"({"prompt":"ab"})");
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(HttpClient(port()).get("/health").status, 200);
    EXPECT_EQ(post("/v1/completions", {{"prompt", "ab"}, {"max_tokens", 3}}).status, 200);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1))
      << "nobody waits for the store";
  const HttpReply refused = waiting.read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  EXPECT_EQ(refused.body.find("redis"), std::string::npos) << "where it is is nobody's business";
  EXPECT_EQ(HttpClient(port()).get("/metrics").status, 200);
  redis_->thaw();
  HttpReply reply;
  for (int i = 0; i < 500 && reply.status != 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    reply = HttpClient(port()).get("/v1/sessions/" + id);
  }
  EXPECT_EQ(reply.status, 200);
}

TEST_F(SessionRoutes, ASessionThatAnotherRequestEndsAtOnceIsAnsweredAllTheSame) {
  port();
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over) {
      const Json list = look("/v1/sessions");
      for (const Json& session : list["data"])
        HttpClient(port()).request("DELETE", "/v1/sessions/" + session["id"].get<std::string>());
    }
  });
  for (int i = 0; i < 400; ++i) EXPECT_EQ(post("/v1/sessions", Json::object()).status, 200);
  over = true;
  other.join();
}

TEST_F(SessionRoutes, AListSaysWhetherThereAreMore) {
  for (int i = 0; i < 3; ++i) ask("/v1/sessions", Json::object());
  for (const auto& [limit, more] : {std::pair(2, true), std::pair(3, false), std::pair(4, false)}) {
    const Json list = look("/v1/sessions?limit=" + std::to_string(limit));
    EXPECT_EQ(list["data"].size(), static_cast<size_t>(std::min(limit, 3)));
    EXPECT_EQ(list["has_more"], more) << limit;
  }
}

TEST_F(SessionRoutes, NoMoreSessionsThanAllowed) {
  config.max_sessions = 2;
  create();
  create();
  const HttpReply refused = post("/v1/sessions", Json::object());
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
}

TEST_F(SessionRoutes, OneKeyLeavesRoomForTheSessionsOfOthers) {
  config.api_key_file = folder_.file("keys", "0123456789abcdef-one\n0123456789abcdef-two\n");
  config.max_sessions = 5;
  const std::string one = "Authorization: Bearer 0123456789abcdef-one\r\n",
                    two = "Authorization: Bearer 0123456789abcdef-two\r\n";
  const auto create_for = [&](const std::string& key) { return post("/v1/sessions", Json::object(), key); };
  for (int i = 0; i < 2; ++i) EXPECT_EQ(create_for(one).status, 200);
  HttpReply refused = create_for(one);
  EXPECT_EQ(refused.status, 429);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  EXPECT_NE(refused.body.find("an API key may have 2 sessions"), std::string::npos) << refused.body;
  EXPECT_EQ(parse_json(refused.body, "the answer")["error"]["code"], "too_many_sessions");
  EXPECT_EQ(post("/v1/completions", {{"store", true}, {"max_tokens", 1}}, one).status, 429);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(create_for(two).status, 200);
  stop();
  config.max_sessions_per_key = 3;  // of the same file
  EXPECT_EQ(create_for(one).status, 200);
  EXPECT_EQ(create_for(one).status, 429);
  EXPECT_EQ(create_for(two).status, 503) << "all together are as many as may be";
}

TEST_F(SessionRoutes, AStoreThatIsFullSaysWhatToDoAndKeepsWhatItHas) {
  config.sessions = "memory";
  config.session_memory_mb = 1;
  const std::string id = create();
  ask(path(id, "append"), {{"prompt", "abc"}});
  std::string last;
  HttpReply refused;
  for (int i = 0; i < 10'000 && refused.status == 0; ++i) {
    const HttpReply reply = post("/v1/sessions", Json::object());
    if (reply.status != 200) {
      refused = reply;
    } else {
      last = parse_json(reply.body, "the answer")["id"];
    }
  }
  const auto expect_full = [](const HttpReply& reply) {
    EXPECT_EQ(reply.status, 507) << reply.body;
    EXPECT_NE(reply.body.find("delete sessions"), std::string::npos) << reply.body;
    EXPECT_EQ(parse_json(reply.body, "the answer")["error"]["code"], "store_full");
  };
  expect_full(refused);
  ask(path(id, "append"), {{"prompt", "d"}});  // in place of what it was
  ask(path(id, "checkpoint"), {{"name", "here"}});
  expect_full(post(path(id, "append"), {{"prompt", "e"}}));
  EXPECT_EQ(look("/v1/sessions/" + id)["tokens"], 5) << "as it was";
  expect_full(post("/v1/completions", {{"store", true}, {"max_tokens", 1}}));
  const HttpReply stream = post(path(id, "generate"), {{"max_tokens", 3}, {"stream", true}});
  EXPECT_NE(stream.body.find("store_full"), std::string::npos) << stream.body;
  EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/" + last).status, 200);
  ask(path(id, "append"), {{"prompt", "e"}});
}

}  // namespace
}  // namespace harmonic
