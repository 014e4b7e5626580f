// What Beast's parser found, as what the rest of the server knows. Included by http_connection.cc alone.
#pragma once

#include <boost/beast/http.hpp>
#include <optional>
#include <string>

#include "harmonic/server/http_text.h"

namespace harmonic {

using HttpParser = boost::beast::http::request_parser<boost::beast::http::buffer_body>;

// Whether the bytes were wrong, and not the connection.
inline bool is_of_http(boost::system::error_code error) {
  namespace http = boost::beast::http;
  return error.category() == make_error_code(http::error::bad_method).category() &&
         error != http::error::end_of_stream && error != http::error::partial_message;
}

// The head of a request, without its body.
inline HttpRequest request_of(const HttpParser& parser, const std::string& client) {
  const auto& message = parser.get();
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.minor_version = message.version() >= 11 ? 1 : 0;
  std::string target(message.target()), host;
  // The absolute form names the host in place of the Host header (RFC 9112, 3.2.2).
  const bool absolute =
      lower_case(target).starts_with("http://") || lower_case(target).starts_with("https://");
  if (absolute) {
    const size_t begin = target.find("//") + 2,
                 end = std::min(target.find_first_of("/?", begin), target.size());
    host = target.substr(begin, end - begin);
    target = (target.substr(end, 1) == "/" ? "" : "/") + target.substr(end);
  }
  const size_t question = std::min(target.find('?'), target.size());
  request.path = target.substr(0, question);
  request.query = target.substr(std::min(question + 1, target.size()));
  request.client = client;
  for (const auto& field : message)
    request.headers.emplace_back(
        lower_case(std::string_view(field.name_string().data(), field.name_string().size())),
        std::string(field.value().data(), field.value().size()));
  for (auto& [name, value] : request.headers)
    if (absolute && name == "host") value = host;
  if (absolute && request.minor_version == 0 && request.count("host") == 0)
    request.headers.emplace_back("host", host);
  return request;
}

// Why the parser refused a head, for its sender. At a length or encoding that contradicts another it stops
// before it has the header: that is added here, for what it is then.
inline std::string head_error(const HttpParser& parser, boost::system::error_code error) {
  namespace http = boost::beast::http;
  const bool two = error == http::error::multiple_content_length,
             length = two || error == http::error::bad_content_length;
  if (length || error == http::error::bad_transfer_encoding) {
    HttpRequest head = request_of(parser, {});
    head.headers.emplace_back(length ? "content-length" : "transfer-encoding", two ? "," : "");
    const std::string wrong = framing_error(head);
    return wrong.empty() ? "the request has a Content-Length that is no number of bytes" : wrong;
  }
  return "not a request of HTTP/1.1: " + error.message();
}

inline std::string_view reason_of(int status) {
  const auto reason = boost::beast::http::obsolete_reason(static_cast<boost::beast::http::status>(status));
  return {reason.data(), reason.size()};
}

}  // namespace harmonic
