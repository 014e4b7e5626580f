#include "harmonic/server/http_text.h"

#include <fmt/format.h>

#include <ctime>

namespace harmonic {
namespace {

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts;
  ::gmtime_r(&now, &parts);
  char text[64];
  std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return text;
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (key == name) return value;
  return {};
}

int64_t HttpRequest::count(std::string_view name) const {
  int64_t found = 0;
  for (const auto& [key, value] : headers) found += key == name;
  return found;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

std::string media_type(const HttpRequest& request) {
  const std::string_view type = request.header("content-type");
  return lower_case(type.substr(0, type.find_first_of("; \t")));
}

std::string framing_error(const HttpRequest& request) {
  const int64_t lengths = request.count("content-length"), encodings = request.count("transfer-encoding");
  if (lengths > 0 && encodings > 0)
    return "the request has both Content-Length and Transfer-Encoding; send one of them";
  if (lengths > 1 || request.header("content-length").find(',') != std::string_view::npos)
    return "the request has more than one Content-Length";
  if (encodings > 1 || (encodings == 1 && lower_case(request.header("transfer-encoding")) != "chunked"))
    return "the request has a Transfer-Encoding other than chunked";
  if (encodings == 1 && request.minor_version == 0) return "the request has a Transfer-Encoding in HTTP/1.0";
  return {};
}

std::optional<HttpRefusal> head_refusal(const HttpRequest& request, unsigned version,
                                        const HttpOptions& options) {
  if (version != 11 && version != 10) return HttpRefusal{505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  if (const std::string wrong = framing_error(request); !wrong.empty()) return HttpRefusal{400, wrong};
  if (static_cast<int64_t>(request.headers.size()) > options.max_headers)
    return HttpRefusal{431, fmt::format("more than {} headers", options.max_headers)};
  if (request.count("host") > 1 || (request.minor_version == 1 && request.count("host") == 0))
    return HttpRefusal{400, "expected exactly one Host header"};
  if (const std::string coding = lower_case(request.header("content-encoding"));
      !coding.empty() && coding != "identity")
    return HttpRefusal{415, "bodies with a Content-Encoding are not read; send it plain"};
  return {};
}

std::string response_head(const HttpResponse& response, std::string_view reason, bool keep_alive,
                          int minor_version) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", response.status, reason, date_now());
  if (!response.content_type.empty()) head += fmt::format("Content-Type: {}\r\n", response.content_type);
  for (const auto& [name, value] : response.headers) head += fmt::format("{}: {}\r\n", name, value);
  if (!keep_alive) {
    head += "Connection: close\r\n";
  } else if (minor_version == 0) {
    head += "Connection: keep-alive\r\n";
  }
  return head;
}

}  // namespace harmonic
