// Which function answers which method and path.
#pragma once

#include <span>
#include <string>

#include "harmonic/server/service.h"

namespace harmonic {

struct Route {
  const char *method, *path;  // "{}" in the path stands for a name
  RouteFunction function;
  bool pieces = false;    // its body is read in pieces
  bool any_name = false;  // the name is the rest of the path, percent-encoded: anything, slashes too
};

// All but the ones that the event loop answers itself: /, /health, /ready, /openapi.json; and /metrics.
std::span<const Route> all_routes();

// The route of a request, and the part of its path in the place of "{}" (HEAD is answered as GET). Throws
// ApiError where there is none.
const Route& route_of(const HttpRequest& request, std::string* name);
// The methods that its path takes, as an Allow header has them; empty for a path that there is not.
std::string methods_of(const HttpRequest& request);
// What the request asked for, in words of ours: a route's path, or "other".
std::string route_name(const HttpRequest& request);
// Whether its body is to be read in pieces.
bool takes_pieces(const HttpRequest& head);

}  // namespace harmonic
