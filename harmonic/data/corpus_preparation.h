// From text to token shards: tokenised in parallel, the same bytes whatever the number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/base/thread_pool.h"
#include "harmonic/data/document_reader.h"
#include "harmonic/data/token_corpus.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

struct PrepareOptions {
  ReaderOptions reader;
  // A shard is closed after the document that brings it to this many; it is held in memory until written.
  int64_t shard_tokens = int64_t{1} << 25;
};

// Writes shards "tokens-00000.shard", ... and, last of all, "shards.json", which lists them, into `folder`,
// made if need be. A preparation that was there before is replaced when this one is whole; until then, and on
// any exception, Interrupted too when the program is asked to stop, it stays as it was. `key`, if any, is
// kept in shards.json. Throws Error while another process prepares there.
void prepare_shards(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                    const std::filesystem::path& folder, ThreadPool& pool, const PrepareOptions& options = {},
                    const std::string& key = {});

// Whether `path` is a folder that prepare_shards() finished.
bool is_prepared_folder(const std::filesystem::path& path);
// Its corpus, which holds `lock`. Throws Error when shards.json is damaged or asks for another shard than the
// one that is there.
TokenCorpus open_prepared_folder(const std::filesystem::path& folder,
                                 ShardCheck check = ShardCheck::structure, std::optional<FileLock> lock = {});
// The key it was prepared with; empty when there is none, or no finished preparation.
std::string key_of_prepared_folder(const std::filesystem::path& folder);

// The same corpus in memory, nothing written.
TokenCorpus corpus_in_memory(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                             ThreadPool& pool, const ReaderOptions& options = {});

}  // namespace harmonic
