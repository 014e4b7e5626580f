// GPT-2's splitting rule as a scanner: text is cut into pieces, and no token ever crosses a cut.
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// With Splitting::single_digits, \p{N} is cut out first, each such character a piece of its own, and the rule
// is applied to what stands between them.
//
// Bytes that are no UTF-8 count as characters of the third kind (neither letter, number nor space). Time is
// linear in the text, whatever it holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace harmonic {

enum class Splitting : uint8_t { gpt2, single_digits };

// The end of the piece that starts at `begin`, itself the start of the text or the end of a piece; begin <
// size.
size_t piece_end(std::string_view text, size_t begin, Splitting splitting = Splitting::gpt2);

// The end of the first piece of a text that begins with `text` and may go on; 0 while that depends on what
// follows.
size_t settled_piece_end(std::string_view text, Splitting splitting = Splitting::gpt2);

// The first position p >= from where both sides of the text can be cut into pieces apart with the same result
// as together, by either rule; the size of the text when there is none.
size_t piece_boundary(std::string_view text, size_t from);

}  // namespace harmonic
