// tokenizer: text to token ids and back. Bytes, byte-level BPE (and its trainer), SentencePiece's BPE.
// Text is bytes: valid UTF-8 or not, whatever goes in comes out again, but for bytes that a byte-level
// vocabulary has no token for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace harmonic {

// Immutable after construction; every const member may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int64_t vocab_size() const = 0;
  // The end-of-text token, which ends every document.
  virtual int32_t eot() const = 0;
  // The token that leads every document: the end-of-text token too, unless the vocabulary has one of its own.
  virtual int32_t bos() const { return eot(); }
  // The special token of that name; -1 where there is none.
  virtual int32_t special(std::string_view /*name*/) const { return -1; }
  // Appends the tokens of `text` to `tokens`. Special tokens written out in the text are text.
  virtual void encode(std::string_view text, std::vector<int32_t>& tokens) const = 0;
  // The same for text that is no beginning, but goes on from other text.
  virtual void encode_continuation(std::string_view text, std::vector<int32_t>& tokens) const {
    encode(text, tokens);
  }
  // The bytes of one token; empty for special tokens. Throws Error for an id outside the vocabulary.
  virtual std::string_view bytes_of(int32_t token) const = 0;
  // What the bytes of a whole text's tokens begin with and the text does not: a space where every word has
  // one before it, the first as well; mostly nothing.
  virtual std::string_view lead() const { return {}; }
  // Lower-case hexadecimal SHA-256 over everything that decides ids: equal hashes mean equal tokenisation.
  virtual std::string hash() const = 0;
  // The content of a Hugging Face tokenizer.json of this tokenizer.
  virtual std::string to_json() const = 0;

  // The first position p >= from at which `text` may be cut: the tokens of both parts, one after the other,
  // are those of the whole. The size of the text when there is none.
  virtual size_t cut_position(std::string_view text, size_t /*from*/) const { return text.size(); }
  // The first position p > 0 at which a text may be cut that begins with `text`, or that is `text` when it
  // has `ended`; 0 while what follows decides about it. `text` is not empty.
  virtual size_t first_cut(std::string_view text, bool ended) const { return ended ? text.size() : 0; }

  std::vector<int32_t> encode(std::string_view text) const {
    std::vector<int32_t> tokens;
    encode(text, tokens);
    return tokens;
  }
  // The bytes of a token that is the first of a text.
  std::string_view first_bytes_of(int32_t token) const {
    std::string_view bytes = bytes_of(token);
    if (bytes.starts_with(lead())) bytes.remove_prefix(lead().size());
    return bytes;
  }
  // A text begins with the first of the tokens, and after each that begins or ends one.
  std::string decode(const std::vector<int32_t>& tokens) const {
    std::string text;
    bool first = true;
    for (int32_t token : tokens) {
      text += first ? first_bytes_of(token) : bytes_of(token);
      first = token == bos() || token == eot();
    }
    return text;
  }
};

// The 256 byte values; 0x00 is the end of text.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

// "bytes", or a tokenizer.json, or SentencePiece's tokenizer.model, or a folder that holds one of them, or a
// folder with encoder.json and vocab.bpe (GPT-2's).
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace harmonic
