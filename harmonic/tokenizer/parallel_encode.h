// One long text on several threads, with the tokens it has in one piece.
#pragma once

#include <string_view>
#include <vector>

#include "harmonic/base/thread_pool.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// The stretches of `text`, of about `size` bytes each (longer where the text has no place to be cut), that
// can be encoded apart. They view `text`.
std::vector<std::string_view> independent_stretches(const Tokenizer& tokenizer, std::string_view text,
                                                    size_t size);

// What tokenizer.encode(text) gives, or encode_continuation(text), by all threads of the pool.
std::vector<int32_t> encode_in_parallel(const Tokenizer& tokenizer, std::string_view text, ThreadPool& pool,
                                        bool continues = false);

}  // namespace harmonic
