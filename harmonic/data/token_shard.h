// Token shards: tokenised documents in one file that is mapped, not loaded.
//
// The stream of a corpus is, for each document, an end-of-text token (EOT) and the document's tokens, and one
// last EOT after the last document. Where another token than the EOT begins texts (BOS), it is read in place
// of the EOT that leads a document (Batch), which stays what the document before has to predict. So document
// d owns positions [offset[d], offset[d+1]), the first of which is its leading EOT, and the target of every
// position is simply the token after it: a document's last target is the EOT that leads the next one, or the
// last one.
//
// The file, all numbers little-endian and unsigned, no gaps but the one named:
//   byte    0   8  magic "HARMTOKN"
//           8   4  format version: 1, or 2 where another token than the EOT begins texts
//          12   4  bytes a token: 2 when the vocabulary has at most 65,536 tokens, otherwise 4
//          16   8  V, size of the vocabulary
//          24   8  id of the EOT, below V
//          32   8  N, tokens in the stream, the last EOT among them
//          40   8  D, documents, at least 1
//          48   8  bytes of source text in all: the sum of bytes[D]
//          56   8  checksum of the tokens (with their padding)
//          64   8  checksum of offset[D + 1] and bytes[D]
//          72  32  SHA-256 that identifies the tokenizer, 32 raw bytes
//         104   8  version 2: id of the BOS, below V and not the EOT; version 1: zeros
//         112   8  zeros
//         120   8  checksum of bytes 0..119
//         128      N tokens, then zeros up to a multiple of 8
//                  offset[D + 1], 8 bytes each: offset[0] = 0, strictly rising, offset[D] = N - 1
//                  bytes[D], 8 bytes each: bytes of document d's text plus one, which counts for its closing
//                  EOT
//   The file ends there. A checksum of n bytes (n a multiple of 8) starts as h = n, and for each 8 bytes,
//   read as a number w, becomes h = rotate_left(h xor w, 29) * 0x9fb21c651e98df25 modulo 2^64.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/base/files.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// What a shard must know of the tokenizer that made it.
struct TokenizerIdentity {
  int64_t vocab_size = 0;
  int32_t eot = 0;
  std::string hash;   // 64 lower-case hexadecimal digits
  int32_t bos = eot;  // the token that leads a document
  bool operator==(const TokenizerIdentity&) const = default;
};
TokenizerIdentity identity_of(const Tokenizer& tokenizer);

// Collects documents in memory and writes them as one shard. Not thread-safe.
class TokenShardBuilder {
 public:
  explicit TokenShardBuilder(TokenizerIdentity identity);

  // Adds a document: its tokens without any EOT of ours, and the length of its text in bytes. Throws Error
  // for a token outside the vocabulary.
  void add(std::span<const int32_t> tokens, int64_t text_bytes);
  // The same in parts: begin_document(), then append() as often as need be.
  void begin_document(int64_t text_bytes);
  void append(std::span<const int32_t> tokens);
  int64_t tokens() const;  // so far, the last EOT not counted
  int64_t documents() const { return static_cast<int64_t>(bytes_.size()); }

  // Both need at least one document. `write` replaces the file only when all of it is on disk.
  void write(const std::filesystem::path& path) const;
  std::string image() const;  // the bytes that write() would write

 private:
  template <typename Sink>
  void emit(Sink sink) const;

  TokenizerIdentity identity_;
  bool narrow_;
  std::vector<uint16_t> tokens16_;
  std::vector<uint32_t> tokens32_;
  std::vector<uint64_t> offsets_, bytes_;
};

enum class ShardCheck {
  structure,   // sizes, header and index; costs a read of the index
  everything,  // the tokens' checksum too; costs a read of the file
};

// A shard, read-only. Opening checks what ShardCheck says; whatever it says, no token outside the vocabulary
// is ever handed out. Every const member may be called from several threads at once. Movable; positions and
// document numbers outside the stream are mistakes of the caller.
class TokenShard {
 public:
  static TokenShard open(const std::filesystem::path& path, ShardCheck check = ShardCheck::structure);
  // A shard in memory; `name` stands for it in errors.
  static TokenShard from_image(std::string image, std::string name);

  const TokenizerIdentity& identity() const { return identity_; }
  const std::string& name() const { return name_; }
  int64_t tokens() const { return token_count_; }
  int64_t documents() const { return document_count_; }
  int64_t source_bytes() const { return source_bytes_; }
  // Identifies the content: equal for equal shards.
  uint64_t checksum() const { return checksum_; }

  // Tokens [begin, begin + count) of the stream. Throws Error when one is not in the vocabulary.
  void read(int64_t begin, int64_t count, int32_t* out) const;
  // Where document d begins, for d in [0, documents()]; the last is the position of the last EOT.
  int64_t offset(int64_t d) const { return static_cast<int64_t>(offsets_[d]); }
  int64_t bytes(int64_t d) const { return static_cast<int64_t>(bytes_[d]); }
  // The document that owns `position`; the last EOT belongs to the last document.
  int64_t document_at(int64_t position) const;

 private:
  TokenShard() = default;
  void parse(std::span<const uint8_t> file, ShardCheck check);
  void check_index() const;
  void check_tokens(std::span<const uint8_t> tokens, uint64_t expected) const;

  std::string name_;
  MappedFile map_;
  std::string image_;
  TokenizerIdentity identity_;
  int64_t token_bytes_ = 0, token_count_ = 0, document_count_ = 0, source_bytes_ = 0;
  uint64_t checksum_ = 0;
  const uint8_t* tokens_ = nullptr;
  const uint64_t* offsets_ = nullptr;
  const uint64_t* bytes_ = nullptr;
};

}  // namespace harmonic
