// SentencePiece's own file, tokenizer.model: a protocol buffer (sentencepiece_model.proto), read strictly.
#pragma once

#include <memory>
#include <string_view>

#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Reads the content; `source` names it in errors. Throws Error for anything malformed, and for what would
// change the tokens and is not supported, by name: other models than BPE with byte fallback, normalisation of
// the text, pieces that users defined.
std::unique_ptr<Tokenizer> read_sentencepiece_model(std::string_view content, std::string_view source);

}  // namespace harmonic
