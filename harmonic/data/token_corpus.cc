#include "harmonic/data/token_corpus.h"

#include <algorithm>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"

namespace harmonic {
namespace {

struct Kept {
  std::vector<TokenShard> shards;
  std::optional<FileLock> lock;
};

// Each pointer keeps all of them, and the lock.
std::vector<std::shared_ptr<const TokenShard>> shared(Kept kept) {
  const auto all = std::make_shared<const Kept>(std::move(kept));
  std::vector<std::shared_ptr<const TokenShard>> result;
  for (const TokenShard& shard : all->shards) result.emplace_back(all, &shard);
  return result;
}

}  // namespace

TokenCorpus::TokenCorpus(std::vector<TokenShard> shards, std::optional<FileLock> lock)
    : TokenCorpus(shared({std::move(shards), std::move(lock)})) {}

TokenCorpus::TokenCorpus(std::vector<std::shared_ptr<const TokenShard>> shards) {
  if (shards.empty()) fail("a corpus needs at least one token shard");
  for (auto& shard : shards) {
    if (shard->identity() != shards.front()->identity())
      fail(
          "{}: made with another tokenizer (vocabulary {}, hash {:.12}) than {} (vocabulary {}, hash "
          "{:.12}); "
          "prepare both with the same one",
          shard->name(), shard->identity().vocab_size, shard->identity().hash, shards.front()->name(),
          shards.front()->identity().vocab_size, shards.front()->identity().hash);
    shards_.push_back({shard, targets_, documents_});
    targets_ = checked_add(targets_, shard->tokens() - 1, "tokens of a corpus");
    documents_ = checked_add(documents_, shard->documents(), "documents of a corpus");
    source_bytes_ = checked_add(source_bytes_, shard->source_bytes(), "bytes of a corpus");
  }
}

TokenCorpus TokenCorpus::open(const std::vector<std::filesystem::path>& shards, ShardCheck check) {
  std::vector<TokenShard> opened;
  for (const auto& path : shards) opened.push_back(TokenShard::open(path, check));
  return TokenCorpus(std::move(opened));
}

TokenCorpus TokenCorpus::from_documents(const std::vector<std::string>& documents,
                                        const Tokenizer& tokenizer) {
  TokenShardBuilder builder(identity_of(tokenizer));
  std::vector<int32_t> tokens;
  for (const std::string& document : documents) {
    tokens.clear();
    tokenizer.encode(document, tokens);
    builder.add(tokens, static_cast<int64_t>(document.size()));
  }
  std::vector<TokenShard> shards;
  shards.push_back(TokenShard::from_image(builder.image(), "corpus in memory"));
  return TokenCorpus(std::move(shards));
}

TokenCorpus TokenCorpus::followed_by(const TokenCorpus& other) const {
  std::vector<std::shared_ptr<const TokenShard>> all;
  for (const Part& part : shards_) all.push_back(part.shard);
  for (const Part& part : other.shards_) all.push_back(part.shard);
  return TokenCorpus(std::move(all));
}

std::string TokenCorpus::hash() const {
  std::string text;
  for (const Part& part : shards_) text += fmt::format("{:016x}", part.shard->checksum());
  return sha256(text);
}

const TokenCorpus::Part& TokenCorpus::part_of_token(int64_t position) const {
  HARMONIC_ASSERT(position >= 0 && position <= targets_);
  const auto after =
      std::upper_bound(shards_.begin(), shards_.end(), position,
                       [](int64_t value, const Part& part) { return value < part.first_token; });
  return *(after - 1);
}

const TokenCorpus::Part& TokenCorpus::part_of_document(int64_t d) const {
  HARMONIC_ASSERT(d >= 0 && d < documents_);
  const auto after = std::upper_bound(shards_.begin(), shards_.end(), d, [](int64_t value, const Part& part) {
    return value < part.first_document;
  });
  return *(after - 1);
}

void TokenCorpus::read(int64_t begin, int64_t count, int32_t* out) const {
  HARMONIC_ASSERT(begin >= 0 && count >= 0 && count <= tokens() - begin);
  while (count > 0) {
    const Part& part = part_of_token(begin);
    const int64_t at = begin - part.first_token;
    const int64_t piece = std::min(count, part.shard->tokens() - at);
    part.shard->read(at, piece, out);
    begin += piece;
    out += piece;
    count -= piece;
  }
}

int64_t TokenCorpus::document_begin(int64_t d) const {
  if (d == documents_) return targets_;
  const Part& part = part_of_document(d);
  return part.first_token + part.shard->offset(d - part.first_document);
}

int64_t TokenCorpus::document_bytes(int64_t d) const {
  const Part& part = part_of_document(d);
  return part.shard->bytes(d - part.first_document);
}

int64_t TokenCorpus::document_at(int64_t position) const {
  const Part& part = part_of_token(position);
  return part.first_document + part.shard->document_at(position - part.first_token);
}

}  // namespace harmonic
