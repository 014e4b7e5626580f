#include "harmonic/experiment/markup.h"

#include "harmonic/base/utf8.h"

namespace harmonic {

std::string escaped(std::string_view text) {
  constexpr std::string_view kReplacement = "\uFFFD";
  std::string result;
  result.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const Utf8Step step = read_utf8(text);
    const std::string_view piece = text.substr(0, static_cast<size_t>(step.length));
    text.remove_prefix(piece.size());
    const bool character = step.kind == Utf8Step::Kind::character;
    const bool control =
        character && ((step.code < 0x20 && step.code != '\n' && step.code != '\t') ||
                      (step.code >= 0x7F && step.code < 0xA0) || (step.code & 0xFFFE) == 0xFFFE);
    if (!character || control) {
      result += kReplacement;
    } else if (piece == "&") {
      result += "&amp;";
    } else if (piece == "<") {
      result += "&lt;";
    } else if (piece == ">") {
      result += "&gt;";
    } else if (piece == "\"") {
      result += "&quot;";
    } else if (piece == "'") {
      result += "&#39;";
    } else {
      result += piece;
    }
  }
  return result;
}

std::string identifier(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      result += c;
    } else if (c >= 'A' && c <= 'Z') {
      result += static_cast<char>(c - 'A' + 'a');
    } else if (!result.empty() && result.back() != '-') {
      result += '-';
    }
  }
  while (!result.empty() && result.back() == '-') result.pop_back();
  return result.empty() ? "x" : result;
}

}  // namespace harmonic
