// UTF-8, one character at a time, after the Unicode Standard's table of well-formed byte sequences (3-7): no
// overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace harmonic {

struct Utf8Step {
  enum class Kind : uint8_t {
    character,   // `code` is valid
    incomplete,  // the text ends within what may become a character; `length` bytes are there
    invalid,     // `length` bytes that begin no character (the standard's maximal ill-formed part)
  };
  Kind kind;
  int length;  // in bytes, at least 1
  char32_t code;
};

// Reads at text[0]; `text` must not be empty.
inline Utf8Step read_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Step::Kind::character, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::Kind::invalid, 1, 0};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Only the second byte has bounds that depend on the first.
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {Utf8Step::Kind::incomplete, i, 0};
    const uint8_t next = byte(static_cast<size_t>(i));
    if (next < low || next > high) return {Utf8Step::Kind::invalid, i, 0};
    code = code << 6 | (next & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::Kind::character, length, code};
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = read_utf8(text);
    if (step.kind != Utf8Step::Kind::character) return false;
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return true;
}

// Appends a code point below 0x110000.
inline void append_utf8(std::string& text, char32_t code) {
  const auto put = [&](char32_t value) { text += static_cast<char>(value); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace harmonic
