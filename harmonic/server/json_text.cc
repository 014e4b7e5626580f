#include "harmonic/server/json_text.h"

#include <fmt/format.h>

#include <cmath>

#include "harmonic/base/utf8.h"

namespace harmonic {

std::string json_text(std::string_view text) {
  std::string out = "\"";
  out.reserve(text.size() + 2);
  while (!text.empty()) {
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
      out += fmt::format("\\u{:04x}", static_cast<int>(step.code));
    } else {
      out += bytes;
    }
  }
  return out += '"';
}

std::string json_number(double number) { return std::isfinite(number) ? fmt::format("{}", number) : "null"; }

}  // namespace harmonic
