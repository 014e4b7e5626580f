#include <array>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/tokenizer/tokenizer.h"
#include "harmonic/tokenizer/tokenizer_json.h"

namespace harmonic {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (size_t byte = 0; byte < 256; ++byte) bytes_[byte] = static_cast<char>(byte);
  }

  int64_t vocab_size() const override { return 256; }
  int32_t eot() const override { return 0; }

  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    const size_t start = tokens.size();
    tokens.resize(start + text.size());
    for (size_t i = 0; i < text.size(); ++i) tokens[start + i] = static_cast<uint8_t>(text[i]);
  }

  // The byte 0x00 of a text comes out again, although it is the end-of-text token too.
  std::string_view bytes_of(int32_t token) const override {
    if (token < 0 || token > 255) fail("token {} is outside the vocabulary of 256 bytes", token);
    return {&bytes_[static_cast<size_t>(token)], 1};
  }

  std::string hash() const override { return sha256("bytes, 0x00 ends a text\n"); }

  // Byte-level BPE without merges, whose ids are the bytes' values.
  std::string to_json() const override {
    BpeVocabulary vocabulary;
    for (char byte : bytes_) vocabulary.tokens.emplace_back(1, byte);
    vocabulary.special.assign(256, false);
    vocabulary.eot = eot();
    return write_tokenizer_json(vocabulary);
  }

  size_t cut_position(std::string_view text, size_t from) const override {
    return std::min(from, text.size());
  }

  size_t first_cut(std::string_view, bool) const override { return 1; }

 private:
  std::array<char, 256> bytes_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

}  // namespace harmonic
