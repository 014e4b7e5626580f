// GPT-2's splitting rule as a scanner: text is cut into pieces, and no token ever crosses a cut.
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// Bytes that are no UTF-8 count as characters of the third kind (neither letter, number nor space). Time is
// linear in the text, whatever it holds.
#pragma once

#include <cstddef>
#include <string_view>

namespace harmonic {

// The end of the piece that starts at `begin`, itself the start of the text or the end of a piece; begin <
// size.
size_t piece_end(std::string_view text, size_t begin);

// The end of the first piece of a text that begins with `text` and may go on; 0 while that depends on what
// follows.
size_t settled_piece_end(std::string_view text);

// The first position p >= from where both sides of the text can be cut into pieces apart with the same result
// as together; the size of the text when there is none.
size_t piece_boundary(std::string_view text, size_t from);

}  // namespace harmonic
