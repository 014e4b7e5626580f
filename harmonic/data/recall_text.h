// Made-up texts that ask for what they said before: a test of memory by distance.
//
//   b=71 a=40                       keys are bound to values
//   tavo ben sirula ...             filler
//   ?a=40 ?b=71                     and asked for, in any order
//
// With one pair it is a passkey, with several associative recall: the text alone tells which value belongs to
// the key. Documents to train on bind and ask again and again, at distances of all sizes; an example to be
// tested by asks once, at a distance that is exact.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace harmonic {

struct RecallQuestion {
  std::string prefix;  // ends with "?b="
  std::string value;   // what comes next
};

// Everything is a function of the seed, the index and the arguments. Immutable: several threads may call.
class RecallText {
 public:
  static constexpr int64_t kDigits = 2;                 // of a value
  static constexpr int64_t kMostPairs = 26;             // keys are the first letters, in any order
  static constexpr int64_t kMostBytes = 1'000'000'000;  // of a document or a distance: a text is held whole
  static constexpr int64_t kMostFiller = 256 << 20;     // bytes of the text that filler is cut from

  // Filler is cut from this text, in which "=" becomes "-" and NUL bytes blanks; made-up words where it is
  // empty.
  explicit RecallText(std::string filler = "");
  // The same with the text of a file; made-up words for an empty path. Throws Error as read_text() does,
  // for a file without text, and for one of more than kMostFiller bytes.
  static RecallText with_filler_of(const std::string& path);

  // A document of exactly `length` bytes. Throws Error (usage) when that has no room for its pairs.
  std::string document(uint64_t seed, uint64_t index, int64_t pairs, int64_t length) const;
  // A question with `distance` bytes from the end of the value where it is bound to its begin where it is
  // asked for, drawn apart from all documents. Throws as check_distance() does.
  RecallQuestion question(uint64_t seed, uint64_t index, int64_t pairs, int64_t distance) const;

  // Throws Error (usage) when so many pairs do not fit into such a distance.
  static void check_distance(int64_t pairs, int64_t distance);
  // How often a guess is right that knows the values of the text but not which belongs to the key; with one
  // pair, a guess that knows nothing.
  static double chance(int64_t pairs);

 private:
  class Draws;
  void append_filler(Draws& draws, int64_t bytes, std::string& text) const;

  std::string filler_;
  std::vector<std::string> words_;
};

}  // namespace harmonic
