// What the pre-tokenizer must know of a character: \p{L}, \p{N}, \s or none of them.
#pragma once

#include <cstdint>

namespace harmonic {

enum class CharClass : uint8_t { other, letter, number, space };

// Two bits a code point in blocks of 128, equal blocks kept once; code points after the last block are
// `other`.
constexpr int64_t unicode_block_count = 1575;
extern const uint8_t unicode_block_index[unicode_block_count];
extern const uint64_t unicode_blocks[][4];
extern const char* const unicode_version;

// Any 32-bit value may be asked for.
inline CharClass char_class(char32_t code) {
  if (code >= unicode_block_count * 128) return CharClass::other;
  const uint64_t* block = unicode_blocks[unicode_block_index[code / 128]];
  return static_cast<CharClass>(block[code % 128 / 32] >> (code % 32 * 2) & 3);
}

}  // namespace harmonic
