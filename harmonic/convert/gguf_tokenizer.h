// The vocabulary that a GGUF file carries, tokenizer.ggml.*: SentencePiece's kind ("llama") or byte-level BPE
// ("gpt2").
#pragma once

#include <memory>

#include "harmonic/convert/gguf_values.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Throws Error for anything malformed, and, by name, for what would change the tokens and is not supported:
// other models and pre-tokenizers, tokens that users defined.
std::unique_ptr<Tokenizer> read_gguf_tokenizer(GgufValues& values);

}  // namespace harmonic
