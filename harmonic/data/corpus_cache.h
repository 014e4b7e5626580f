// The corpus of a list of inputs, prepared once and kept.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/data/corpus_preparation.h"

namespace harmonic {

// $HARMONIC_CACHE, or $XDG_CACHE_HOME/harmonic, or $HOME/.cache/harmonic. Throws Error when none of them is
// set.
std::filesystem::path cache_folder();

// What decides a preparation: SHA-256 over the tokenizer, the options, and path, size and time of change of
// every file. Throws Error for standard input, which has none of these.
std::string preparation_key(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                            const PrepareOptions& options);

// The corpus of `inputs`, what a user calls training data: text in any form that DocumentSource reads,
// folders that prepare_shards() wrote, or both; with the format "shards" only the latter. Text is prepared in
// `cache`/<key>, where an empty `cache` is cache_folder()/tokens, and found there the next time; a damaged
// preparation is made again. Text on standard input is prepared in memory. Throws Error when prepared shards
// belong to another tokenizer. The cache is never emptied: any folder in it may be deleted when no run uses
// it.
TokenCorpus load_corpus(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ThreadPool& pool,
                        const PrepareOptions& options = {}, const std::filesystem::path& cache = {});

}  // namespace harmonic
