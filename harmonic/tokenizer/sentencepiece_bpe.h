// SentencePiece's byte-pair encoding, the Llama kind: spaces are characters like others, written U+2581 in
// the names of tokens, and every text begins with one that is not its own. Neighbours are merged wherever
// they stand in the text, the pair of lowest rank first and the leftmost of those. Characters without a token
// fall back to the tokens of their bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/tokenizer/bpe.h"

namespace harmonic {

struct SentencePieceVocabulary {
  enum class Kind : uint8_t {
    text,     // a run of characters
    byte,     // stands for a byte that no character's token covers; never merged
    special,  // never made from text
  };
  std::vector<std::string> tokens;  // by id: its bytes (a space is a space), or the name of a special token
  std::vector<Kind> kinds;          // by id
  // In the order of their ranks. Merges that follow one another and make the same token have one rank.
  std::vector<BpeMerge> merges;
  int32_t unknown = -1;       // a special token that stands for what has no token; never made here
  bool leading_space = true;  // a text's tokens begin with a space that is not in the text
};

// Checks the vocabulary (every byte has its token, there is a space, no two texts are equal, merges join two
// texts to one that is their bytes) and throws Error, naming `source`, where it is wrong. The special token
// <s> leads documents; <|endoftext|>, else </s>, else the only special token but the unknown one ends them,
// and leads them where there is no <s>.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceVocabulary vocabulary,
                                                        std::string_view source);

// The merges of a vocabulary that has a score for each token in place of a list: two texts may be merged when
// what they make is a text of the vocabulary, that of the highest score first, of equal scores the lowest id.
// Throws Error, naming `source`, for more than 2^22.
std::vector<BpeMerge> merges_from_scores(const SentencePieceVocabulary& vocabulary,
                                         std::span<const float> scores, std::string_view source);

}  // namespace harmonic
