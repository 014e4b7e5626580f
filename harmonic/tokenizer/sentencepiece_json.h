// Hugging Face's tokenizer.json of SentencePiece's kind: BPE that falls back to bytes.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "harmonic/tokenizer/sentencepiece_bpe.h"

namespace harmonic {

// Reads a file that was parsed; what holds of every BPE model was checked. Throws Error, naming `source`.
std::unique_ptr<Tokenizer> read_sentencepiece_json(const nlohmann::json& file, std::string_view source);

// The content of a tokenizer.json; `bos` is the token that leads a text.
std::string write_sentencepiece_json(const SentencePieceVocabulary& vocabulary, int32_t bos);

// The byte that the name of a token, "<0x0A>", stands for; -1 where it is no such name.
int byte_of_name(std::string_view name);
// U+2581 and space, each for the other in the names of tokens.
std::string without_markers(std::string_view name);

}  // namespace harmonic
