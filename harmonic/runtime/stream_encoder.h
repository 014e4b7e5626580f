// The tokens of a text that arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Gives tokenizer.encode(whole text), however the pieces fall, in bounded memory: where kLongestPiece bytes
// have no place to be cut, they are tokenised apart, a choice that depends on the text alone. Not
// thread-safe; the tokenizer must outlive it.
class StreamEncoder {
 public:
  static constexpr size_t kLongestPiece = 1 << 16;

  explicit StreamEncoder(const Tokenizer& tokenizer);

  // Takes the next bytes of the text, and appends the tokens that no later byte can change.
  void push(std::string_view bytes, std::vector<int32_t>& tokens);
  // The text ends here: appends its last tokens. The next push() begins another text.
  void finish(std::vector<int32_t>& tokens);

 private:
  void encode_ready(bool ended, std::vector<int32_t>& tokens);

  const Tokenizer& tokenizer_;
  bool single_bytes_;    // every token is one byte: any place is a place to cut
  std::string waiting_;  // not tokenised yet; begins where the text can be cut
  size_t searched_ = 0;  // waiting_ has no place to cut before this
};

}  // namespace harmonic
