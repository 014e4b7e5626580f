// GPT-2's alphabet: every byte written as one printable character, so that tokens are text in JSON. Visible
// Latin-1 characters stand for themselves, the others for U+0100 onwards in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace harmonic {

// The code point that stands for a byte.
char32_t alphabet_character(uint8_t byte);

// Bytes to letters of the alphabet (UTF-8).
std::string to_alphabet(std::string_view bytes);

// And back; nothing when a character is not in the alphabet.
std::optional<std::string> from_alphabet(std::string_view letters);

}  // namespace harmonic
