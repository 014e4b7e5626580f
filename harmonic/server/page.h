// The page at /, and the description of the routes at /openapi.json: files that are part of the program.
#pragma once

#include <string_view>

#include "harmonic/server/http_server.h"

namespace harmonic {

extern const std::string_view kPage;  // page.html, made a part of the program by the build

extern const std::string_view kOpenApi;  // docs/openapi.json

// The page, with a policy under which nothing but its own script and style runs and nothing but this server
// is asked.
HttpResponse page_response();

}  // namespace harmonic
