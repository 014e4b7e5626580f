// What a request's head says, checked, and an answer's head, written: the texts of HTTP/1.1 around the
// parser.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "harmonic/server/http_server.h"

namespace harmonic {

// ASCII letters alone.
std::string lower_case(std::string_view text);
// Of the Content-Type header: in lower case, without parameters; empty where there is none.
std::string media_type(const HttpRequest& request);

struct HttpRefusal {
  int status;
  std::string why;
};
// What is wrong with the framing of a request's body, where two readers might disagree; empty when nothing.
std::string framing_error(const HttpRequest& request);
// Whether a head is to be refused whatever it asks for: its framing, where two readers might disagree, its
// version (11 is HTTP/1.1), its Host header, its size.
std::optional<HttpRefusal> head_refusal(const HttpRequest& request, unsigned version,
                                        const HttpOptions& options);

// The status line and headers of an answer, without those that frame its body and without the empty line.
// `reason`: the status in words.
std::string response_head(const HttpResponse& response, std::string_view reason, bool keep_alive,
                          int minor_version);

}  // namespace harmonic
