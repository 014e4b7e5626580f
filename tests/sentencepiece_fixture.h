// A small vocabulary of SentencePiece's kind, and the file formats that hold such ones.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/tokenizer/sentencepiece_bpe.h"

namespace harmonic {

struct ScoredVocabulary {
  SentencePieceVocabulary vocabulary;
  std::vector<float> scores;
};

// <unk>, <s>, </s>, the bytes, then `texts` of falling scores, then the characters of `alphabet`.
inline ScoredVocabulary scored_vocabulary(const std::vector<std::string>& texts,
                                          const std::vector<std::string>& alphabet) {
  using Kind = SentencePieceVocabulary::Kind;
  ScoredVocabulary scored;
  const auto add = [&](std::string token, Kind kind, float score) {
    scored.vocabulary.tokens.push_back(std::move(token));
    scored.vocabulary.kinds.push_back(kind);
    scored.scores.push_back(score);
  };
  for (const char* name : {"<unk>", "<s>", "</s>"}) add(name, Kind::special, 0);
  scored.vocabulary.unknown = 0;
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)), Kind::byte, 0);
  float score = 0;
  for (const std::string& text : texts) add(text, Kind::text, score--);
  for (const std::string& character : alphabet) add(character, Kind::text, score--);
  scored.vocabulary.merges = merges_from_scores(scored.vocabulary, scored.scores, "a test");
  return scored;
}

inline ScoredVocabulary small_scored_vocabulary() {
  return scored_vocabulary({" t", "he", "in", " the", " a", "er", "  ", "    ", "on", " on", "ce",
                            "\xC3\xA9t", "ing", " once", "lo", " lo", "\n\n"},
                           {" ", "t", "h", "e", "i", "n", "a", "r", "o", "c", "g", "l", "s", ".", "\xC3\xA9",
                            "\xE2\x82\xAC", "\n"});
}

inline std::unique_ptr<Tokenizer> small_sentencepiece() {
  return make_sentencepiece_tokenizer(small_scored_vocabulary().vocabulary, "small vocabulary");
}

// The same as SentencePiece's tokenizer.model.
inline std::string sentencepiece_model_of(const ScoredVocabulary& scored) {
  using Kind = SentencePieceVocabulary::Kind;
  const auto varint = [](uint64_t value) {
    std::string bytes;
    for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
    return bytes + static_cast<char>(value);
  };
  const auto number = [&](int field, uint64_t value) { return varint(field << 3) + varint(value); };
  const auto text = [&](int field, std::string_view bytes) {
    return varint(field << 3 | 2) + varint(bytes.size()) + std::string(bytes);
  };
  std::string model;
  for (size_t id = 0; id < scored.vocabulary.tokens.size(); ++id) {
    const std::string& token = scored.vocabulary.tokens[id];
    const Kind kind = scored.vocabulary.kinds[id];
    std::string name;
    for (const char c : token) name += kind == Kind::text && c == ' ' ? "\xE2\x96\x81" : std::string(1, c);
    if (kind == Kind::byte) name = fmt::format("<0x{:02X}>", static_cast<uint8_t>(token[0]));
    std::string piece = text(1, name) + varint(2 << 3 | 5);
    piece.append(reinterpret_cast<const char*>(&scored.scores[id]), 4);
    const int type = kind == Kind::byte ? 6 : kind == Kind::text ? 1 : id == 0 ? 2 : 3;
    if (type != 1) piece += number(3, static_cast<uint64_t>(type));
    model += text(1, piece);
  }
  model += text(2, text(1, "some/input.txt") + number(3, 2) + number(35, 1));
  model += text(3, text(1, "identity") + number(3, 1) + number(4, 0) + number(5, 1));
  return model;
}

}  // namespace harmonic
