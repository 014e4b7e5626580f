#include "harmonic/runtime/stream_encoder.h"

#include <algorithm>

namespace harmonic {
namespace {

bool has_single_bytes_only(const Tokenizer& tokenizer) {
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token)
    if (tokenizer.bytes_of(token).size() > 1) return false;
  return true;
}

}  // namespace

StreamEncoder::StreamEncoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), single_bytes_(has_single_bytes_only(tokenizer)) {}

void StreamEncoder::push(std::string_view bytes, std::vector<int32_t>& tokens) {
  // In portions, so that a long piece is not held whole a second time.
  while (!bytes.empty()) {
    const std::string_view portion = bytes.substr(0, kLongestPiece);
    bytes.remove_prefix(portion.size());
    if (single_bytes_) {
      tokenizer_.encode(portion, tokens);
      continue;
    }
    waiting_ += portion;
    encode_ready(false, tokens);
  }
}

void StreamEncoder::finish(std::vector<int32_t>& tokens) { encode_ready(true, tokens); }

// A place to cut is one that the tokenizer finds before the end of what is there: it then does not depend on
// what follows. All of them are visited, since the next forced cut counts from the last.
void StreamEncoder::encode_ready(bool ended, std::vector<int32_t>& tokens) {
  const std::string_view text = waiting_;
  size_t encoded = 0, cut = 0;
  while (cut < text.size()) {
    const size_t next = tokenizer_.cut_position(text, std::max(cut + 1, searched_));
    searched_ = 0;
    const bool known = next < text.size() || ended;
    if (std::min(next, text.size()) - cut > kLongestPiece) {
      cut += kLongestPiece;
      tokenizer_.encode(text.substr(encoded, cut - encoded), tokens);
      encoded = cut;
    } else if (known) {
      cut = next;
    } else {
      // The last two bytes are looked at again: what decides about them may still come.
      searched_ = std::max(text.size(), cut + 2) - 1 - cut;
      break;
    }
  }
  tokenizer_.encode(text.substr(encoded, cut - encoded), tokens);
  waiting_.erase(0, cut);
}

}  // namespace harmonic
