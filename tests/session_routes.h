// A server that keeps texts in a file and seals states, for tests of what it keeps, hands out and takes back.
#pragma once

#include <sys/stat.h>

#include <string>

#include "tests/server_fixture.h"

namespace harmonic {

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

}  // namespace harmonic
