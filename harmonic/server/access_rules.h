// Which requests a server answers at all: by Host header, by origin, by API key.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "harmonic/server/clients.h"
#include "harmonic/server/http_server.h"
#include "harmonic/server/server_config.h"

namespace harmonic {

// Immutable; any thread may ask.
class AccessRules {
 public:
  // `key`: one more API key than the file's, or empty. Throws Error as ApiKeys does.
  AccessRules(const ServerConfig& config, std::string_view key)
      : config_(config), keys_(config.api_key_file, key) {}

  // Throws ApiError 403 for a name that this server does not go by, and for a page that may not call.
  void check_host(const HttpRequest& request) const;
  void check_origin(const HttpRequest& request) const;
  // Whose the request is: empty where no API key is asked for. Throws ApiError 401.
  std::string owner_of(const HttpRequest& request) const;
  // How many there may be: API keys, or one where none is asked for.
  int64_t owners() const { return std::max<int64_t>(1, keys_.count()); }

  using Headers = std::vector<std::pair<std::string, std::string>>;
  // That let the page which asks read the answer; none where it is not one of another origin. Nothing of the
  // client's is in them.
  Headers cors_headers(const HttpRequest& request) const;
  HttpResponse with_origin(const HttpRequest& request, HttpResponse response) const;

 private:
  bool is_allowed_origin(std::string_view origin) const;

  const ServerConfig config_;
  const ApiKeys keys_;
};

}  // namespace harmonic
