// Checkpoints and tokenizers of llama2.c (karpathy/llama2.c), in the format that it calls legacy, version 0.
//
// Checkpoint: seven i32 (width, feed-forward width, layers, heads, key-value heads, vocabulary, context; a
// negative vocabulary says that the head is a matrix of its own), then f32: embedding; of all layers one
// after the other: attention's norm, Wq, Wk, Wv, Wo, the feed-forward's norm, W1 (gate), W2 (down), W3 (up);
// the last norm; two tables of rotary cosines and sines, context x head width / 2 each, that nobody reads;
// the head. Rotary pairs are neighbours within a head.
//
// Tokenizer: i32, the longest token's bytes; then of each token f32 score, i32 length, and its bytes,
// SentencePiece's with spaces as spaces.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "harmonic/convert/llama.h"

namespace harmonic {

// `tokenizer` may be empty: then tokenizer.bin or tok<vocabulary>.bin beside the checkpoint is read. Throws
// Error.
PretrainedModel read_llama2c(const std::filesystem::path& checkpoint, const std::filesystem::path& tokenizer,
                             const Backend& backend);

// Its <s>, token 1, begins and ends texts: llama2.c trains with nothing else between them and stops there.
// Its
// </s> is a token like others. `source` names the content in errors. Throws Error.
std::unique_ptr<Tokenizer> read_llama2c_tokenizer(std::string_view content, std::string_view source);

}  // namespace harmonic
