// A vocabulary learned from texts, for `harmonic tokenizer train` and for runs with data.tokenizer =
// "bpe:SIZE": the same texts give both the same one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harmonic/base/thread_pool.h"
#include "harmonic/data/document_reader.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Bytes of text that are learned from at most, from the start.
constexpr int64_t kTokenizerTextBytes = int64_t{1} << 28;

// A byte-level BPE of at most `vocab_size` tokens. Throws Error, and Interrupted when the program is asked to
// stop.
std::unique_ptr<Tokenizer> learn_tokenizer(const std::vector<std::string>& inputs,
                                           const ReaderOptions& options, int64_t vocab_size,
                                           ThreadPool& pool);

}  // namespace harmonic
