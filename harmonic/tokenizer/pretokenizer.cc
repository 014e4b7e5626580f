#include "harmonic/tokenizer/pretokenizer.h"

#include <algorithm>
#include <array>

#include "harmonic/base/utf8.h"
#include "harmonic/tokenizer/unicode_classes.h"

namespace harmonic {
namespace {

struct Unit {
  CharClass kind;
  size_t length;
};

constexpr std::array<CharClass, 128> make_ascii_classes() {
  std::array<CharClass, 128> classes{};
  for (size_t c = 0; c < 128; ++c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
      classes[c] = CharClass::letter;
    else if (c >= '0' && c <= '9')
      classes[c] = CharClass::number;
    else if (c == ' ' || (c >= '\t' && c <= '\r'))
      classes[c] = CharClass::space;
    else
      classes[c] = CharClass::other;
  }
  return classes;
}
constexpr std::array<CharClass, 128> ascii_classes = make_ascii_classes();

Unit wide_unit_at(std::string_view text, size_t at) {
  const Utf8Step step = read_utf8(text.substr(at));
  const bool valid = step.kind == Utf8Step::Kind::character;
  return {valid ? char_class(step.code) : CharClass::other, static_cast<size_t>(step.length)};
}

inline Unit unit_at(std::string_view text, size_t at) {
  const uint8_t byte = static_cast<uint8_t>(text[at]);
  return byte < 0x80 ? Unit{ascii_classes[byte], 1} : wide_unit_at(text, at);
}

// The end of the run of characters of one kind.
inline size_t run_end(std::string_view text, size_t at, CharClass kind) {
  while (at < text.size()) {
    const Unit unit = unit_at(text, at);
    if (unit.kind != kind) break;
    at += unit.length;
  }
  return at;
}

// The length of 's 't 're 've 'm 'll 'd at the start of the text, or 0.
size_t contraction_length(std::string_view text) {
  if (text.size() < 2) return 0;
  switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text.size() > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
      return text.size() > 2 && text[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

}  // namespace

size_t piece_end(std::string_view text, size_t begin, Splitting splitting) {
  // What a digit that stands alone ends: to what is before it, it is the end of the text.
  const auto is_cut_out = [splitting](CharClass kind) {
    return splitting == Splitting::single_digits && kind == CharClass::number;
  };
  const char first = text[begin];
  if (first == '\'') {
    const size_t length = contraction_length(text.substr(begin));
    if (length != 0) return begin + length;
  }
  if (first == ' ' && begin + 1 < text.size()) {
    const Unit next = unit_at(text, begin + 1);
    if (next.kind != CharClass::space && !is_cut_out(next.kind))
      return run_end(text, begin + 1 + next.length, next.kind);
  }
  Unit unit = unit_at(text, begin);
  if (is_cut_out(unit.kind)) return begin + unit.length;
  if (unit.kind != CharClass::space) return run_end(text, begin + unit.length, unit.kind);

  // Spaces: all of them at the end of the text; before anything else all but the last, which may lead a word.
  size_t last = begin, at = begin;
  while (unit.kind == CharClass::space) {
    last = at;
    at += unit.length;
    if (at == text.size()) return at;
    unit = unit_at(text, at);
    if (is_cut_out(unit.kind)) return at;
  }
  return last > begin ? last : at;
}

size_t settled_piece_end(std::string_view text, Splitting splitting) {
  // The beginning of a character may become one of any kind.
  for (size_t last = std::min<size_t>(3, text.size()); last > 0; --last) {
    if (read_utf8(text.substr(text.size() - last)).kind != Utf8Step::Kind::incomplete) continue;
    text.remove_suffix(last);
    break;
  }
  // 'l may become 'll.
  if (text.empty() || (text.front() == '\'' && text.size() < 3)) return 0;
  const size_t end = piece_end(text, 0, splitting);
  return end < text.size() ? end : 0;
}

// Between a visible ASCII character and a space: no alternative of the rule reaches over it from the left
// (only a leading blank is matched together with other characters), and none looks back from the right.
size_t piece_boundary(std::string_view text, size_t from) {
  for (size_t at = std::max<size_t>(from, 1); at < text.size(); ++at) {
    const char before = text[at - 1], after = text[at];
    if (before > ' ' && before < 0x7F && (after == ' ' || after == '\n' || after == '\t' || after == '\r'))
      return at;
  }
  return text.size();
}

}  // namespace harmonic
