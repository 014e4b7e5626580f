// The tokens of a text that arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Gives tokenizer.encode(whole text), however the pieces fall, in bounded memory. The one exception: what has
// no place to be cut for more than kLongestPiece bytes (of BPE, a run of letters, of digits, of signs or of
// spaces) is cut after so many. Merges depend on the whole of such a run, which encode() holds in memory; the
// cut depends on the text alone. Not thread-safe; the tokenizer must outlive it.
class StreamEncoder {
 public:
  static constexpr size_t kLongestPiece = 1 << 16;

  explicit StreamEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // Takes the next bytes of the text, and appends the tokens that no later byte can change.
  void push(std::string_view bytes, std::vector<int32_t>& tokens);
  // The text ends here: appends its last tokens. The next push() begins another text.
  void finish(std::vector<int32_t>& tokens);

  // What a text that goes on later has beside its tokens so far: bytes that are no token yet, and whether
  // there are tokens.
  const std::string& waiting() const { return waiting_; }
  bool begun() const { return begun_; }
  void go_on_with(std::string waiting, bool begun) {
    waiting_ = std::move(waiting);
    begun_ = begun;
    enough_ = 0;
  }

 private:
  void encode_ready(bool ended, std::vector<int32_t>& tokens);
  void encode(std::string_view text, std::vector<int32_t>& tokens);

  const Tokenizer& tokenizer_;
  std::string waiting_;  // not tokenised yet; begins where the text is cut
  size_t enough_ = 0;    // bytes of it that are worth looking at
  bool begun_ = false;   // something of the text has been tokenised
};

}  // namespace harmonic
