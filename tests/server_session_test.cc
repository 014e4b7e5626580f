// Texts that a server keeps, hands out and takes back.
#include <sys/stat.h>

#include <cstring>
#include <limits>

#include "harmonic/runtime/session_store.h"
#include "harmonic/runtime/state_file.h"
#include "harmonic/runtime/state_seal.h"
#include "harmonic/server/service.h"
#include "tests/cli_program.h"
#include "tests/redis_server.h"
#include "tests/server_fixture.h"

namespace harmonic {
namespace {

class SessionRoutes : public ServerTest {
 protected:
  SessionRoutes() {
    const std::string ring = folder_.file("ring", std::string(64, '5') + "\n");
    ::chmod(ring.c_str(), 0600);
    config.keyring = ring;
    config.sessions = "sqlite:" + (folder_ / "sessions");
  }
  std::string create() { return ask("/v1/sessions", Json::object())["id"]; }
  std::string path(const std::string& id, const std::string& what) {
    return "/v1/sessions/" + id + "/" + what;
  }
  // What one request for all of it gives.
  std::string text_at_once(const std::string& prompt, int tokens) {
    return ask("/v1/completions", {{"prompt", prompt},
                                   {"max_tokens", tokens},
                                   {"seed", 7},
                                   {"ignore_end", true}})["choices"][0]["text"];
  }
  Json go_on(const std::string& id, const std::string& prompt, int tokens) {
    return ask(path(id, "generate"),
               {{"prompt", prompt}, {"max_tokens", tokens}, {"seed", 7}, {"ignore_end", true}});
  }
  static std::string text_of(const Json& answer) { return answer["choices"][0]["text"]; }
};

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

TEST_F(SessionRoutes, AnExportedStateIsThatOfHarmonicGenerateAndIsTakenBack) {
  const std::string id = create();
  ask(path(id, "append"), {{"prompt", "Chapter one"}});
  const HttpReply exported = HttpClient(port()).get(path(id, "export"));
  const std::string expected = text_of(go_on(id, "", 12));
  HttpClient client(port());
  client.send(
      "POST /v1/sessions/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
      "application/octet-stream\r\nContent-Length: " +
      std::to_string(exported.body.size()) + "\r\n\r\n" + exported.body);
  const Json imported = json_of(client.read());
  EXPECT_EQ(text_of(go_on(imported["id"], "", 12)), expected);
  const std::string file = folder_.file("state", exported.body);
  const Outcome outcome =
      run_harmonic({"generate", "--model", folder_ / "model", "--state-in", file, "--max-tokens", "12",
                    "--seed", "7", "--ignore-end", "--threads", "1"});
  EXPECT_EQ(outcome.out, expected + "\n") << outcome.err;
  std::string damaged = exported.body;
  damaged[damaged.size() - 5] ^= 1;
  client.send(
      "POST /v1/sessions/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
      "application/octet-stream\r\nContent-Length: " +
      std::to_string(damaged.size()) + "\r\n\r\n" + damaged);
  const HttpReply refused = client.read();
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.body.find("/tmp"), std::string::npos) << refused.body;
}

// A state that anybody may have made, whose numbers no next token leaves finite.
TEST_F(SessionRoutes, AStateThatIsNoneIsNotKept) {
  const LoadedModel loaded = load_model_folder(folder_ / "model", cpu_backend());
  const std::string identity = identity_of(*loaded.model);
  const auto filled = [&](float number) {
    TextPoint point = beginning_of_text(*loaded.model);
    const StateLayout& layout = loaded.model->state_layout();
    const StateRows row(point.state.data(), 1, layout);
    for (const StateLayout::Named& named : layout.fields()) {
      const Tensor numbers = row.field(named.field);
      std::fill_n(static_cast<float*>(numbers.data), numbers.cols, number);
    }
    return std::make_shared<const TextPoint>(std::move(point));
  };
  make_sqlite_store(folder_ / "sessions", *loaded.model, identity, 0)
      ->save({"sess-damaged", "", "", 1, 1, filled(std::numeric_limits<float>::infinity()), {}, 0});
  const auto expect_refused = [](const HttpReply& reply) {
    EXPECT_EQ(reply.status, 409) << reply.body;
    EXPECT_EQ(parse_json(reply.body, "the answer")["error"]["code"], "invalid_state");
  };
  const std::string file = state_file_bytes(*filled(3e38F), identity);
  HttpClient client(port());
  client.send(
      "POST /v1/sessions/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream; "
      "a=b\r\nContent-Length: " +
      std::to_string(file.size()) + "\r\n\r\n" + file);
  const std::string id = json_of(client.read())["id"];
  expect_refused(post(path(id, "append"), {{"prompt", "abc"}}));
  for (const char* kept : {"return_state", "store"})
    expect_refused(post("/v1/completions",
                        {{"previous_response_id", id}, {"prompt", "abc"}, {"max_tokens", 0}, {kept, true}}));
  EXPECT_EQ(HttpClient(port()).get(path(id, "export")).body, file) << "it is as it was";
  // A row that is damaged is not a store that has failed.
  expect_refused(HttpClient(port()).get("/v1/sessions/sess-damaged"));
  expect_refused(post(path("sess-damaged", "fork"), Json::object()));
  EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/sess-damaged").status, 200);
}

// The same, where it comes with the request. Whatever a state leads to, it is the request's fault, and not
// the server's.
TEST_F(SessionRoutes, ARequestThatGoesOnFromAForgedStateIsToldSo) {
  const LoadedModel loaded = load_model_folder(folder_ / "model", cpu_backend());
  const StateSeal seal(config.keyring, *loaded.model, identity_of(*loaded.model));
  const auto forged = [&](float number, uint64_t position) {
    TextPoint point = beginning_of_text(*loaded.model);
    const StateRows row(point.state.data(), 1, loaded.model->state_layout());
    for (const StateLayout::Named& named : loaded.model->state_layout().fields()) {
      const Tensor numbers = row.field(named.field);
      for (int64_t i = 0; i < numbers.cols; ++i)
        static_cast<float*>(numbers.data)[i] = i % 2 == 0 ? number : -number;
    }
    std::memcpy(point.state.data(), &position, sizeof position);
    point.earlier = kFarthestPosition - 1;
    return seal.seal(point, "", unix_seconds() + 1000);
  };
  int refused = 0;
  for (const float number : {3.4e38F, 1e30F, 1e-40F})
    for (const uint64_t position : {uint64_t{0}, uint64_t{15}, uint64_t{16}, kFarthestPosition - 1}) {
      const std::string token = forged(number, position);
      for (const Json& more :
           {Json{{"max_tokens", 40}}, Json{{"max_tokens", 0}, {"return_state", true}},
            Json{{"prompt", "abc"}, {"max_tokens", 3}, {"logprobs", 2}, {"echo", true}},
            Json{{"prompt", "abc"}, {"n", 3}, {"stream", true}},
            Json{{"return_activity", true}, {"logprobs", 1}}, Json{{"max_tokens", 3}, {"store", true}}}) {
        Json body = more;
        body.update({{"state", token}, {"ignore_end", true}, {"seed", 1}});
        const HttpReply reply = post("/v1/completions", body);
        EXPECT_TRUE(reply.status == 200 || reply.status == 400) << reply.status << body << reply.body;
        EXPECT_EQ(reply.body.find("nan"), std::string::npos);
        EXPECT_EQ(reply.body.find("generation_failed"), std::string::npos) << body << reply.body;
        if (reply.status == 400) {
          EXPECT_NE(reply.body.find("invalid_state"), std::string::npos) << reply.body;
        }
        refused += reply.body.find("invalid_state") != std::string::npos;
      }
      const HttpReply scored =
          post("/v1/score", {{"text", "abcdefghijklmnopqrst"}, {"state", token}, {"by", "token"}});
      EXPECT_TRUE(scored.status == 200 || scored.status == 400) << scored.status << scored.body;
      refused += scored.status == 400;
      // A session of it is at odds with itself, and can be deleted.
      const Json made = ask("/v1/sessions", {{"state", token}});
      const HttpReply went_on =
          post(path(made["id"], "generate"), {{"max_tokens", 40}, {"ignore_end", true}});
      EXPECT_TRUE(went_on.status == 200 || went_on.status == 409) << went_on.status << went_on.body;
      EXPECT_EQ(HttpClient(port()).request("DELETE", "/v1/sessions/" + made["id"].get<std::string>()).status,
                200);
    }
  EXPECT_GT(refused, 0);
  EXPECT_EQ(text_at_once("abc", 5).empty(), false) << "the others' texts are written all the same";
}

TEST_F(SessionRoutes, AStateTokenGoesOnAnywhere) {
  const Json body = {
      {"prompt", "Far away"}, {"max_tokens", 10}, {"seed", 7}, {"ignore_end", true}, {"return_state", true}};
  const std::string expected = text_at_once("Far away", 25);
  const Json first = ask("/v1/completions", body);
  const std::string token = first["state"];
  stop();
  config.sessions = "memory";  // another worker, which knows nothing of the first
  const Json second =
      ask("/v1/completions", {{"state", token}, {"max_tokens", 15}, {"seed", 7}, {"ignore_end", true}});
  EXPECT_EQ(text_of(first) + text_of(second), expected);
  EXPECT_EQ(ask("/v1/completions",
                {{"state", token}, {"max_tokens", 15}, {"seed", 7}, {"ignore_end", true}})["choices"],
            second["choices"])
      << "a token is a value: it forks";
  EXPECT_EQ(post("/v1/completions", {{"state", token + "x"}}).status, 400);
  EXPECT_EQ(ask("/v1/sessions", {{"state", token}})["tokens"], 1 + 8 + 10);
  stop();
  config.max_state_token_bytes = 100;
  EXPECT_EQ(post("/v1/completions", body).status, 400);
  stop();
  config.keyring = "";
  EXPECT_EQ(post("/v1/completions", body).status, 400);
}

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

TEST_F(SessionRoutes, AStateIsExportedWithoutAFile) {
  ::setenv("TMPDIR", "/nonexistent", 1);
  const std::string id = ask("/v1/sessions", Json::object())["id"];
  const HttpReply state = HttpClient(port()).get("/v1/sessions/" + id + "/export");
  EXPECT_EQ(state.status, 200) << state.body;
  HttpClient client(port());
  client.send(
      "POST /v1/sessions/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
      "application/octet-stream\r\nContent-Length: " +
      std::to_string(state.body.size()) + "\r\n\r\n" + state.body);
  EXPECT_EQ(client.read().status, 200);
  ::unsetenv("TMPDIR");
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

TEST_F(SessionRoutes, ScoresAreThoseOfHarmonicScore) {
  const std::string text = "The quick brown fox.\nJumps over\n";
  const std::string file = folder_.file("text", text);
  const Json scored = ask("/v1/score", {{"text", text}, {"by", "token"}});
  ThreadPool pool(1);
  const std::string piped = run_harmonic({"eval", "--model", folder_ / "model", "--data", file, "--lengths",
                                          "1024", "--json", folder_ / "eval", "--threads", "1"})
                                .err;
  const Json evaluated = parse_json(read_file(folder_ / "eval"), "eval");
  EXPECT_NEAR(scored["bits_per_byte"].get<double>(), evaluated["results"][0]["bits_per_byte"].get<double>(),
              1e-5);
  EXPECT_EQ(scored["tokens"], static_cast<int>(text.size()) + 1);
  ASSERT_EQ(scored["results"].size(), text.size() + 1);
  EXPECT_EQ(scored["results"][4]["text"], "q");
  const Json by_line = ask("/v1/score", {{"text", text}, {"by", "line"}});
  ASSERT_EQ(by_line["results"].size(), 2u);
  double first = 0, second = 0;
  for (size_t i = 0; i < text.size(); ++i)
    (i <= text.find('\n') ? first : second) += scored["results"][i]["bits"].get<double>();
  EXPECT_NEAR(by_line["results"][0]["bits"].get<double>(), first, 1e-5);
  EXPECT_NEAR(by_line["results"][1]["bits"].get<double>(), second, 1e-5);
  EXPECT_EQ(by_line["results"][1],
            Json({{"line", 2}, {"bytes", 11}, {"bits", by_line["results"][1]["bits"]}}));
  EXPECT_EQ(by_line["bits"], scored["bits"]);
  // While it comes in, whatever the pieces.
  HttpClient client(port());
  client.send("POST /v1/score/stream HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" +
              text.substr(0, 5) + "\r\n");
  EXPECT_EQ(client.read_head().status, 200);
  std::string lines, chunk;
  while (std::count(lines.begin(), lines.end(), '\n') < 5 && client.read_chunk(chunk)) lines += chunk;
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 5) << "before the rest is sent";
  client.send("1b\r\n" + text.substr(5) + "\r\n0\r\n\r\n");
  while (client.read_chunk(chunk)) lines += chunk;
  std::vector<Json> results;
  for (size_t at = 0; at < lines.size(); at = lines.find('\n', at) + 1)
    results.push_back(parse_json(lines.substr(at, lines.find('\n', at) - at), "a line"));
  ASSERT_EQ(results.size(), text.size() + 2);
  EXPECT_EQ(results.back()["bits"], scored["bits"]);
  results.pop_back();
  EXPECT_EQ(Json(results), scored["results"]);
}

TEST_F(SessionRoutes, AScoreGoesOnFromAStateToken) {
  const Json whole = ask("/v1/score", {{"text", "one two three"}, {"end", false}});
  const Json first = ask("/v1/score", {{"text", "one two"}, {"end", false}, {"return_state", true}});
  const Json second = ask("/v1/score", {{"text", " three"}, {"end", false}, {"state", first["state"]}});
  EXPECT_NEAR(first["bits"].get<double>() + second["bits"].get<double>(), whole["bits"].get<double>(), 1e-9);
  EXPECT_EQ(post("/v1/score", {{"text", 5}}).status, 400);
  EXPECT_EQ(post("/v1/score", Json::object()).status, 400);
}

}  // namespace
}  // namespace harmonic
