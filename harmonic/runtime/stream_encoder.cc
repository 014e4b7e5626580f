#include "harmonic/runtime/stream_encoder.h"

namespace harmonic {
namespace {

// More bytes than what follows can take from a piece that seems to go on: a part of a character and a space.
constexpr size_t kUndecided = 8;

}  // namespace

void StreamEncoder::push(std::string_view bytes, std::vector<int32_t>& tokens) {
  // In portions, so that a long text is not held whole a second time.
  while (!bytes.empty()) {
    const std::string_view portion = bytes.substr(0, kLongestPiece);
    bytes.remove_prefix(portion.size());
    waiting_ += portion;
    // A long piece that goes on is not looked through again for each byte.
    if (waiting_.size() >= enough_) encode_ready(false, tokens);
  }
}

void StreamEncoder::finish(std::vector<int32_t>& tokens) {
  encode_ready(true, tokens);
  begun_ = false;
}

void StreamEncoder::encode(std::string_view text, std::vector<int32_t>& tokens) {
  if (text.empty()) return;
  if (begun_) {
    tokenizer_.encode_continuation(text, tokens);
  } else {
    tokenizer_.encode(text, tokens);
  }
  begun_ = true;
}

// Every cut is visited, since the next forced one counts from the last.
void StreamEncoder::encode_ready(bool ended, std::vector<int32_t>& tokens) {
  const std::string_view text = waiting_;
  size_t encoded = 0, cut = 0;
  while (cut < text.size()) {
    const std::string_view rest = text.substr(cut);
    const size_t length = tokenizer_.first_cut(rest, ended);
    if (length > kLongestPiece || (length == 0 && rest.size() > kLongestPiece + kUndecided)) {
      cut += kLongestPiece;
      encode(text.substr(encoded, cut - encoded), tokens);
      encoded = cut;
    } else if (length > 0) {
      cut += length;
    } else {
      break;
    }
  }
  encode(text.substr(encoded, cut - encoded), tokens);
  waiting_.erase(0, cut);
  enough_ = waiting_.size() + waiting_.size() / 64;
}

}  // namespace harmonic
