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

// Where prepared text is kept, and how much of it.
struct CacheOptions {
  std::filesystem::path folder;  // empty: cache_folder()/tokens
  double gigabytes = 0;          // of all corpora in it; 0 is no limit
};

// The corpus of `inputs`, what a user calls training data: text in any form that DocumentSource reads,
// folders that prepare_shards() wrote, or both; with the format "shards" only the latter. Text is prepared in
// the cache under its key, and found there the next time; a damaged preparation is made again. Text on
// standard input is prepared in memory. Throws Error when prepared shards belong to another tokenizer, and
// Interrupted.
//
// When a corpus has been added, the least recently used ones are removed until the cache keeps within its
// limit: not those that a corpus in any process uses, and never the new one. Processes may share a cache.
TokenCorpus load_corpus(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ThreadPool& pool,
                        const PrepareOptions& options = {}, const CacheOptions& cache = {});

}  // namespace harmonic
