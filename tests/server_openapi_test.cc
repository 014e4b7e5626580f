// docs/openapi.json against the routes that there are.
#include <set>

#include "harmonic/server/routes.h"
#include "tests/server_fixture.h"

namespace harmonic {
namespace {

using OpenApi = ServerTest;

Json description() {
  return parse_json(read_file(HARMONIC_SOURCE_DIR "/docs/openapi.json"), "docs/openapi.json");
}

TEST_F(OpenApi, NamesEveryRouteAndNoOther) {
  std::set<std::string> routes = {"GET /", "GET /health", "GET /ready", "GET /metrics", "GET /openapi.json"};
  for (const Route& route : all_routes()) {
    std::string path = route.path;
    if (const size_t hole = path.find("{}"); hole != path.npos) path.insert(hole + 1, "id");
    routes.insert(std::string(route.method) + " " + path);
  }
  std::set<std::string> described;
  const Json file = description();
  for (const auto& [path, methods] : file.at("paths").items())
    for (const auto& [method, operation] : methods.items()) {
      std::string name = method;
      for (char& c : name) c = static_cast<char>(::toupper(c));
      described.insert(name + " " + path);
    }
  EXPECT_EQ(described, routes);
}

TEST_F(OpenApi, IsServedAsItStandsInTheFile) {
  const HttpReply reply = HttpClient(port()).get("/openapi.json");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, read_file(HARMONIC_SOURCE_DIR "/docs/openapi.json"));
}

// Each field that is described is known: it may be wrong here, but is not refused as one that nobody knows.
TEST_F(OpenApi, DescribesFieldsThatTheServerKnows) {
  const Json file = description();
  const Json& schemas = file.at("components").at("schemas");
  const std::string session = ask("/v1/sessions", Json::object()).at("id");
  const std::vector<std::pair<std::string, std::string>> bodies = {
      {"/v1/completions", "CompletionRequest"},
      {"/v1/chat/completions", "ChatRequest"},
      {"/v1/score", "ScoreRequest"},
      {"/v1/sessions/" + session + "/append", "AppendedText"},
      {"/v1/sessions/" + session + "/generate", "SessionText"}};
  for (const auto& [path, schema] : bodies) {
    Json body = Json::object();
    for (const auto& [name, type] : schemas.at(schema).at("properties").items()) body[name] = nullptr;
    if (schema != "AppendedText") body["max_tokens"] = 1;
    if (schema == "ScoreRequest") body = {{"text", "a"}, {"by", "line"}, {"end", false}, {"state", nullptr}};
    if (schema == "ChatRequest") body["messages"] = Json::array({{{"role", "user"}, {"content", "a"}}});
    const HttpReply reply = post(path, body);
    EXPECT_EQ(reply.status, 200) << path << ": " << reply.body;
  }
  EXPECT_EQ(post("/v1/completions", {{"no_such_field", 1}}).status, 400);
}

// What docs/server.md says: those of /v1/completions, but for some.
TEST_F(OpenApi, DescribesEveryFieldThatSessionsTake) {
  const Json file = description();
  const auto fields_but = [&](const char* schema, const std::set<std::string>& others) {
    std::set<std::string> names;
    for (const auto& [name, type] : file.at("components").at("schemas").at(schema).at("properties").items())
      if (!others.contains(name)) names.insert(name);
    return names;
  };
  EXPECT_EQ(fields_but("SessionText", {}),
            fields_but("CompletionRequest", {"state", "return_state", "store", "previous_response_id"}));
  const std::set<std::string> writing = {"max_tokens", "temperature", "top_p",      "top_k",          "min_p",
                                         "seed",       "stop",        "ignore_end", "return_activity"};
  EXPECT_EQ(fields_but("AppendedText", {}), fields_but("SessionText", writing));
  const std::string session = ask("/v1/sessions", Json::object()).at("id");
  for (const std::string& name : writing) {
    const HttpReply reply = post("/v1/sessions/" + session + "/append", {{name, 0}});
    EXPECT_EQ(reply.status, 400) << name;
    EXPECT_EQ(parse_json(reply.body, "the answer")["error"]["param"], name);
  }
}

}  // namespace
}  // namespace harmonic
