#include "harmonic/server/access_rules.h"

#include <algorithm>

#include "harmonic/server/api_error.h"
#include "harmonic/server/http_text.h"

namespace harmonic {
namespace {

// "localhost" of "localhost:8080", "::1" of "[::1]:8080".
std::string host_name(std::string_view host) {
  if (host.starts_with('[')) return std::string(host.substr(1, host.find(']') - 1));
  return std::string(host.substr(0, host.find(':')));
}

}  // namespace

void AccessRules::check_host(const HttpRequest& request) const {
  if (!config_.on_loopback() || !config_.unix_socket.empty()) {
    if (config_.allowed_hosts.empty()) return;
  }
  // A page of any name may be made to point here: on loopback only loopback's own names are answered.
  const std::string host = lower_case(host_name(request.header("host")));
  const bool own = host == config_.host ||
                   (config_.on_loopback() && (host == "localhost" || host == "127.0.0.1" || host == "::1"));
  const bool allowed = std::any_of(config_.allowed_hosts.begin(), config_.allowed_hosts.end(),
                                   [&](const std::string& name) { return lower_case(name) == host; });
  if (!own && !allowed && !(host.empty() && request.minor_version == 0))
    throw ApiError{403, "this server does not go by the name in the Host header (--allowed-hosts)", "",
                   "unknown_host", 0};
}

bool AccessRules::is_allowed_origin(std::string_view origin) const {
  return std::find(config_.cors_origins.begin(), config_.cors_origins.end(), origin) !=
         config_.cors_origins.end();
}

void AccessRules::check_origin(const HttpRequest& request) const {
  const std::string_view origin = request.header("origin");
  if (origin.empty() || is_allowed_origin(origin)) return;
  if (origin == "http://" + std::string(request.header("host")) ||
      origin == "https://" + std::string(request.header("host")))
    return;
  throw ApiError{403, "pages of this origin may not call (--cors-origins)", "", "unknown_origin", 0};
}

AccessRules::Headers AccessRules::cors_headers(const HttpRequest& request) const {
  for (const std::string& origin : config_.cors_origins)
    if (origin == request.header("origin"))
      return {{"Access-Control-Allow-Origin", origin},
              {"Access-Control-Allow-Headers", "Authorization, Content-Type"},
              {"Access-Control-Allow-Methods", "GET, POST, DELETE"},
              {"Vary", "Origin"}};
  return {};
}
HttpResponse AccessRules::with_origin(const HttpRequest& request, HttpResponse response) const {
  for (auto& header : cors_headers(request)) response.headers.push_back(std::move(header));
  return response;
}

std::string AccessRules::owner_of(const HttpRequest& request) const {
  if (!keys_.required()) return {};
  const auto owner = keys_.owner_of(request.header("authorization"));
  if (!owner)
    throw ApiError{401, "expected one of this server's API keys as Authorization: Bearer KEY", "",
                   "invalid_api_key", 0};
  return *owner;
}

}  // namespace harmonic
