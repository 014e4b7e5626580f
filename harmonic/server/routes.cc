#include "harmonic/server/routes.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "harmonic/server/api_error.h"

namespace harmonic {
namespace {

constexpr size_t kLongestId = 256;

constexpr Route kRoutes[] = {
    {"GET", "/v1/models", route_models},
    {"GET", "/v1/models/{}", route_model, false, true},
    {"POST", "/v1/completions", route_completions},
    {"POST", "/v1/chat/completions", route_chat_completions},
    {"POST", "/v1/sessions", route_create_session},
    {"GET", "/v1/sessions", route_list_sessions},
    {"POST", "/v1/sessions/import", route_import},
    {"GET", "/v1/sessions/{}", route_show_session},
    {"DELETE", "/v1/sessions/{}", route_delete_session},
    {"POST", "/v1/sessions/{}/append", route_append},
    {"POST", "/v1/sessions/{}/generate", route_generate},
    {"POST", "/v1/sessions/{}/fork", route_fork},
    {"POST", "/v1/sessions/{}/checkpoint", route_checkpoint},
    {"POST", "/v1/sessions/{}/rewind", route_rewind},
    {"GET", "/v1/sessions/{}/export", route_export},
    {"POST", "/v1/score", route_score},
    {"POST", "/v1/score/stream", route_score_stream, true},
    {"GET", "/tokenizer_info", route_tokenizer_info},
    {"POST", "/tokenize", route_tokenize},
    {"POST", "/detokenize", route_detokenize},
};

bool may_be_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestId && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

// The bytes that a part of a path stands for; none where it is not encoded as it should be.
std::optional<std::string> percent_decoded(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      bytes += text[at];
      continue;
    }
    uint8_t byte = 0;
    const char* begin = text.data() + at + 1;
    if (at + 2 >= text.size() || std::from_chars(begin, begin + 2, byte, 16).ptr != begin + 2) return {};
    bytes += static_cast<char>(byte);
    at += 2;
  }
  return bytes;
}

// Whether the path is the route's; the part in the place of "{}" goes to *name.
bool matches(const Route& route, std::string_view path, std::string* name) {
  const std::string_view pattern = route.path;
  const size_t hole = pattern.find("{}");
  if (hole == pattern.npos) return pattern == path;
  const std::string_view before = pattern.substr(0, hole), after = pattern.substr(hole + 2);
  if (path.size() < before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after))
    return false;
  const std::string_view found = path.substr(before.size(), path.size() - before.size() - after.size());
  if (route.any_name) {
    const auto decoded = percent_decoded(found);
    if (!decoded || decoded->empty()) return false;
    *name = *decoded;
    return true;
  }
  if (!may_be_name(found)) return false;
  *name = found;
  return true;
}

// The routes of a path; one that a route spells out is no name within another.
template <typename Use>
void each_route(const HttpRequest& request, std::string* name, const Use& use) {
  const bool spelt_out = std::any_of(std::begin(kRoutes), std::end(kRoutes),
                                     [&](const Route& route) { return request.path == route.path; });
  for (const Route& route : kRoutes)
    if (spelt_out ? request.path == route.path : matches(route, request.path, name)) use(route);
}

// Those that are not among the routes.
bool is_own(std::string_view path) {
  return path == "/" || path == "/health" || path == "/ready" || path == "/metrics" ||
         path == "/openapi.json";
}

}  // namespace

std::span<const Route> all_routes() { return kRoutes; }

std::string methods_of(const HttpRequest& request) {
  std::string name, methods;
  const auto add = [&](std::string_view method) {
    methods += fmt::format("{}{}", methods.empty() ? "" : ", ", method);
    if (method == "GET") methods += ", HEAD";
  };
  if (is_own(request.path)) add("GET");
  each_route(request, &name, [&](const Route& route) { add(route.method); });
  return methods.empty() ? "" : methods + ", OPTIONS";
}

const Route& route_of(const HttpRequest& request, std::string* name) {
  const Route* found = nullptr;
  each_route(request, name, [&](const Route& route) {
    if (request.method == route.method ||
        (request.method == "HEAD" && std::string_view(route.method) == "GET"))
      found = &route;
  });
  if (found) return *found;
  const std::string methods = methods_of(request);
  if (methods.empty()) throw ApiError{404, "there is nothing at this path", "", "not_found", 0};
  throw ApiError{405, "expected one of the methods " + methods, "", "method_not_allowed", 0};
}

std::string route_name(const HttpRequest& request) {
  std::string name;
  if (is_own(request.path)) return request.path;
  for (const Route& route : kRoutes)
    if (matches(route, request.path, &name)) return route.path;
  return "other";
}

bool takes_pieces(const HttpRequest& head) {
  std::string name;
  return std::any_of(std::begin(kRoutes), std::end(kRoutes), [&](const Route& route) {
    return route.pieces && head.method == route.method && matches(route, head.path, &name);
  });
}

}  // namespace harmonic
