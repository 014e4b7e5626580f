// A server of a small model in this process.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>

#include "harmonic/base/json.h"
#include "harmonic/server/server.h"
#include "tests/http_client.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    config.port = 0;
    config.sessions = "memory";
    make_model_folder(folder_ / "model", *make_byte_tokenizer(), 3);
  }
  ~ServerTest() override { stop(); }

  void start(int threads = 1) {
    server.emplace(config, load_model_folder(folder_ / "model", cpu_backend()), "tiny", threads);
    thread_ = std::thread([this] { server->run(false); });
  }
  void stop() {
    if (!server) return;
    server->stop();
    thread_.join();
    server.reset();
  }

  int port() {
    if (!server) start();
    return server->port();
  }
  HttpReply post(const std::string& path, const Json& body, const std::string& more = "") {
    return HttpClient(port()).post(path, body.dump(), more);
  }
  // The answer, which must be 200.
  Json ask(const std::string& path, const Json& body, const std::string& more = "") {
    return json_of(post(path, body, more));
  }
  Json look(const std::string& path, const std::string& more = "") {
    return json_of(HttpClient(port()).get(path, more));
  }
  static Json json_of(const HttpReply& reply) {
    EXPECT_EQ(reply.status, 200) << reply.body;
    return reply.status == 200 ? parse_json(reply.body, "the answer") : Json();
  }
  // What a stream of events holds, "[DONE]" apart, which must come last.
  static std::vector<Json> events_of(const std::string& body) {
    std::vector<Json> events;
    bool done = false;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      const std::string event = body.substr(at, end - at);
      at = end + 2;
      if (!event.starts_with("data: ")) continue;
      EXPECT_FALSE(done);
      done = event == "data: [DONE]";
      if (!done) events.push_back(parse_json(event.substr(6), "an event"));
    }
    EXPECT_TRUE(done) << body;
    return events;
  }

  TemporaryFolder folder_;
  ServerConfig config;
  std::optional<Server> server;

 private:
  std::thread thread_;
};

}  // namespace harmonic
