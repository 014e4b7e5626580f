#include "harmonic/server/api_error.h"

#include "harmonic/base/log.h"
#include "harmonic/server/json_text.h"

namespace harmonic {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

}  // namespace

std::string json_of(const ApiError& error) {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? std::string("null") : json_text(text);
  };
  return fmt::format(R"({{"error":{{"message":{},"type":"{}","param":{},"code":{}}}}})",
                     json_text(error.message), type_of(error.status), or_null(error.param),
                     or_null(error.code));
}

ApiError internal_error(std::string_view what) {
  warn("internal error, please report it: {}", what);
  return {500, "internal error", "", "internal_error", 0};
}

ApiError busy_error() { return {503, "the server is busy: too many texts wait", "", "overloaded", 1}; }

ApiError cancelled_error(bool late) {
  return {503, late ? "the request took too long" : "the request was cancelled", "", "cancelled", 1};
}

HttpResponse response_of(const ApiError& error) {
  HttpResponse response{error.status, "application/json", json_of(error), {}};
  if (error.retry_after > 0)
    response.headers.emplace_back("Retry-After", fmt::format("{}", error.retry_after));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace harmonic
