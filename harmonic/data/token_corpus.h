// A corpus: the token stream of one or more shards, read as one (see token_shard.h for the stream).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harmonic/base/file_lock.h"
#include "harmonic/data/token_shard.h"

namespace harmonic {

// Between two shards the last EOT of the one and the leading EOT of the next are the same position, so that
// the stream does not depend on where it was cut. A cheap value: copies share the shards. Every const member
// may be called from several threads at once. Positions and document numbers outside are mistakes of the
// caller.
class TokenCorpus {
 public:
  // Holds `lock` as long as it or a copy lives. Throws Error when there is no shard or when they come from
  // different tokenizers.
  explicit TokenCorpus(std::vector<TokenShard> shards, std::optional<FileLock> lock = {});
  static TokenCorpus open(const std::vector<std::filesystem::path>& shards,
                          ShardCheck check = ShardCheck::structure);
  // A corpus in memory. Throws Error when there is no document.
  static TokenCorpus from_documents(const std::vector<std::string>& documents, const Tokenizer& tokenizer);
  // This corpus followed by another of the same tokenizer.
  TokenCorpus followed_by(const TokenCorpus& other) const;

  const TokenizerIdentity& identity() const { return shards_.front().shard->identity(); }
  int64_t tokens() const { return targets() + 1; }  // N: positions 0..N-1
  int64_t targets() const { return targets_; }      // N - 1: positions with a token after them
  int64_t documents() const { return documents_; }
  // Of the source text, plus one for each EOT that is a target: what bits per byte divides by.
  int64_t source_bytes() const { return source_bytes_; }
  double bytes_per_token() const {
    return static_cast<double>(source_bytes_) / static_cast<double>(targets_);
  }
  // SHA-256 over the shards' checksums: equal for equal corpora cut alike.
  std::string hash() const;

  // Tokens [begin, begin + count). Throws Error for a damaged shard.
  void read(int64_t begin, int64_t count, int32_t* out) const;
  // Document d owns [document_begin(d), document_begin(d + 1)); d may be documents(), which gives N - 1.
  int64_t document_begin(int64_t d) const;
  int64_t document_length(int64_t d) const { return document_begin(d + 1) - document_begin(d); }
  int64_t document_bytes(int64_t d) const;  // of its text, plus one
  // The document that owns a position in [0, N - 1); position N - 1 counts to the last document.
  int64_t document_at(int64_t position) const;

 private:
  struct Part {
    std::shared_ptr<const TokenShard> shard;
    int64_t first_token, first_document;  // in the corpus
  };
  explicit TokenCorpus(std::vector<std::shared_ptr<const TokenShard>> shards);
  const Part& part_of_token(int64_t position) const;
  const Part& part_of_document(int64_t d) const;

  std::vector<Part> shards_;
  int64_t targets_ = 0, documents_ = 0, source_bytes_ = 0;
};

}  // namespace harmonic
