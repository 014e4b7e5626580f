// harmonic serve, as a child process.
#include <gtest/gtest.h>

#include "tests/cli_process.h"
#include "tests/http_client.h"

namespace harmonic {
namespace {

class Serve : public ::testing::Test {
 protected:
  Serve() : model_(make_model_folder(folder_ / "tiny", *make_byte_tokenizer(), 3)) {}

  std::vector<std::string> words(std::vector<std::string> more) const {
    std::vector<std::string> all = {"serve", "--model", model_, "--threads", "1"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // Where the child listens, once it says so.
  static int port_of(const HarmonicProcess& process) {
    for (int i = 0; i < 3000; ++i) {
      const std::string said = process.errors_so_far();
      if (const size_t at = said.find("127.0.0.1:");
          at != std::string::npos && said.find(';', at) != std::string::npos)
        return std::stoi(said.substr(at + 10));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return 0;
  }

  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(Serve, AnswersUntilItIsAskedToEndAndThenEndsWell) {
  HarmonicProcess process(words({"--port", "0", "--sessions", "memory"}));
  const int port = port_of(process);
  HttpClient client(port);
  EXPECT_EQ(client.get("/ready").status, 200);
  const HttpReply answer =
      client.post("/v1/completions", R"({"prompt":"Once","max_tokens":12,"seed":3,"ignore_end":true})");
  EXPECT_EQ(answer.status, 200);
  // What is at work when the signal comes is finished.
  client.send_post("/v1/completions",
                   R"({"prompt":"Once","max_tokens":2000,"ignore_end":true,"stream":true})");
  EXPECT_EQ(client.read_head().status, 200);
  process.interrupt(SIGTERM);
  std::string text;
  for (std::string chunk; client.read_chunk(chunk);) text += chunk;
  EXPECT_TRUE(text.ends_with("data: [DONE]\n\n"));
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

TEST_F(Serve, SessionsSurviveAKill) {
  const std::vector<std::string> all = words({"--port", "0", "--sessions", "sqlite:" + (folder_ / "db")});
  std::string id;
  {
    HarmonicProcess process(all);
    HttpClient client(port_of(process));
    const std::string made = client.post("/v1/sessions", "{}").body;
    id = made.substr(made.find("sess-"));
    id.resize(id.find('"'));
    EXPECT_EQ(client.post("/v1/sessions/" + id + "/append", R"({"prompt":"abc"})").status, 200);
    process.interrupt(SIGKILL);
    EXPECT_EQ(process.wait().status, 128 + SIGKILL);
  }
  HarmonicProcess process(all);
  HttpClient client(port_of(process));
  EXPECT_NE(client.get("/v1/sessions/" + id).body.find("\"tokens\":4,"), std::string::npos);
  process.interrupt(SIGTERM);
  EXPECT_EQ(process.wait().status, 0);
}

TEST_F(Serve, AStoreThatIsNotThereIsSaidAtOnce) {
  const Outcome outcome = run_harmonic(words({"--port", "0", "--sessions", "redis:" + (folder_ / "none")}));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("is Redis running there?"), std::string::npos) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

TEST_F(Serve, SettingsComeFromAFileTheEnvironmentAndFlagsInThisOrder) {
  const std::string file =
      folder_.file("serve.toml", "port = 0\nmodel_name = \"file\"\nsessions = \"memory\"\nmax_tokens = 10\n");
  ::setenv("HARMONIC_SERVE_MODEL_NAME", "environment", 1);
  {
    HarmonicProcess process(words({"--config", file}));
    HttpClient client(port_of(process));
    EXPECT_NE(client.get("/v1/models").body.find("\"id\":\"environment\""), std::string::npos);
    EXPECT_EQ(client.post("/v1/completions", R"({"max_tokens":11})").status, 400);
    process.interrupt(SIGINT);
  }
  {
    HarmonicProcess process(words({"--config", file, "--model-name", "flag", "--max-tokens", "11"}));
    HttpClient client(port_of(process));
    EXPECT_NE(client.get("/v1/models").body.find("\"id\":\"flag\""), std::string::npos);
    EXPECT_EQ(client.post("/v1/completions", R"({"max_tokens":11})").status, 200);
    process.interrupt(SIGINT);
  }
  ::unsetenv("HARMONIC_SERVE_MODEL_NAME");
}

TEST_F(Serve, MistakesAreOneLineAndNameTheSetting) {
  const std::string file = folder_.file("serve.toml", "prot = 1\n");
  struct Case {
    std::vector<std::string> more;
    std::string says;
    std::vector<std::string> environment;
  };
  for (const Case& one :
       std::vector<Case>{{{"--config", file}, "did you mean \"port\"", {}},
                         {{"--port", "70000"}, "--port", {}},
                         {{"--host", "0.0.0.0"}, "API key", {}},
                         {{"--host", "nowhere"}, "expected an address", {}},
                         {{"--sessions", "redis"}, "--sessions", {}},
                         {{"--sessions", "redis://localhost:0"}, "--sessions", {}},
                         {{}, "did you mean \"HARMONIC_SERVE_PORT\"", {"HARMONIC_SERVE_PROT=1"}},
                         {{"--batch", "0"}, "--batch", {}}}) {
    const Outcome outcome = run_harmonic(words(one.more), one.environment);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(one.says), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }
}

}  // namespace
}  // namespace harmonic
