// What went wrong with a request, in the form that OpenAI's clients know.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "harmonic/server/http_server.h"

namespace harmonic {

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;    // the field of the request at fault; may be empty
  std::string code;     // a word for programs; may be empty
  int retry_after = 0;  // seconds; 0: trying again is of no use
};

HttpResponse response_of(const ApiError& error);
// Of a mistake of ours: what it was is for the log, not for clients.
ApiError internal_error(std::string_view what);
// Of a request that finds no place in the queue, and of one that was given up.
ApiError busy_error();
ApiError cancelled_error(bool late);
// As one line of JSON: {"error": {...}}.
std::string json_of(const ApiError& error);

// Throws an ApiError of status 400 about a field.
template <typename... Args>
[[noreturn]] void fail_field(std::string param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError{400, fmt::format(format, std::forward<Args>(args)...), std::move(param), "invalid_value", 0};
}

}  // namespace harmonic
