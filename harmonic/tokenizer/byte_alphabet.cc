#include "harmonic/tokenizer/byte_alphabet.h"

#include <array>

#include "harmonic/base/utf8.h"

namespace harmonic {
namespace {

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, 0x144> bytes{};  // by code point; -1 where there is none
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    // Not visible: controls and blanks of both halves, and the soft hyphen.
    const bool visible = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    const char32_t character = visible ? static_cast<char32_t>(byte) : next++;
    alphabet.characters[static_cast<size_t>(byte)] = character;
    alphabet.bytes[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}
constexpr Alphabet alphabet = make_alphabet();

}  // namespace

char32_t alphabet_character(uint8_t byte) { return alphabet.characters[byte]; }

std::string to_alphabet(std::string_view bytes) {
  std::string letters;
  for (char byte : bytes) append_utf8(letters, alphabet_character(static_cast<uint8_t>(byte)));
  return letters;
}

std::optional<std::string> from_alphabet(std::string_view letters) {
  std::string bytes;
  while (!letters.empty()) {
    const Utf8Step step = read_utf8(letters);
    if (step.kind != Utf8Step::Kind::character || step.code >= alphabet.bytes.size() ||
        alphabet.bytes[step.code] < 0)
      return std::nullopt;
    bytes += static_cast<char>(alphabet.bytes[step.code]);
    letters.remove_prefix(static_cast<size_t>(step.length));
  }
  return bytes;
}

}  // namespace harmonic
