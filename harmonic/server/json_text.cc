#include "harmonic/server/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "harmonic/base/utf8.h"

namespace harmonic {

void append_json_text(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    // Most of most texts goes out as it is.
    const size_t plain = static_cast<size_t>(std::find_if(text.begin(), text.end(),
                                                          [](char c) {
                                                            return static_cast<signed char>(c) < 0x20 ||
                                                                   c == 0x7F || c == '"' || c == '\\';
                                                          }) -
                                             text.begin());
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const Utf8Step step = read_utf8(text);
    const std::string_view bytes = text.substr(0, static_cast<size_t>(step.length));
    text.remove_prefix(bytes.size());
    if (step.kind != Utf8Step::Kind::character) {
      append_utf8(out, 0xFFFD);
    } else if (step.code == '"' || step.code == '\\') {
      out += '\\';
      out += bytes;
    } else if (step.code == '\n') {
      out += "\\n";
    } else if (step.code < 0x20 || step.code == 0x7F) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<int>(step.code));
    } else {
      out += bytes;
    }
  }
  out += '"';
}

std::string json_text(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  append_json_text(out, text);
  return out;
}

std::string json_number(double number) { return std::isfinite(number) ? fmt::format("{}", number) : "null"; }

}  // namespace harmonic
