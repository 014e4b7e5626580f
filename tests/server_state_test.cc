// States that a server hands out and takes back: exported, as tokens, and those of scores.
#include <cstring>
#include <limits>

#include "harmonic/runtime/session_store.h"
#include "harmonic/runtime/state_file.h"
#include "harmonic/runtime/state_seal.h"
#include "harmonic/server/service.h"
#include "tests/cli_program.h"
#include "tests/session_routes.h"

namespace harmonic {
namespace {

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
