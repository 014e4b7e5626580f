// Byte-level byte-pair encoding, the GPT-2 kind: text is cut into pieces (pretokenizer.h), each piece into
// bytes, and neighbours are merged, the pair of lowest rank first and the leftmost of those, until no pair
// has a rank.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/tokenizer/pretokenizer.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

struct BpeMerge {
  int32_t left, right, result;  // token ids
  bool operator==(const BpeMerge&) const = default;
};

struct BpeVocabulary {
  std::vector<std::string> tokens;  // by id: its bytes, or the name of a special token
  std::vector<bool> special;        // by id: never made from text
  std::vector<BpeMerge> merges;     // by rank
  int32_t eot = -1;                 // a special token
  Splitting splitting = Splitting::gpt2;
};

// Checks the vocabulary (every printable ASCII character is a token, no two tokens are equal, each merge
// joins two tokens to one that is their bytes, no pair twice) and throws Error, naming `source`, where it is
// wrong. Bytes that are no token, as some published vocabularies leave out control characters and bytes that
// UTF-8 does not use, are left out of the text, as by the programs that those vocabularies come from.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeVocabulary vocabulary, std::string_view source);

}  // namespace harmonic
