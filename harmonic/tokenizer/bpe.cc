#include "harmonic/tokenizer/bpe.h"

#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/tokenizer/bpe_merger.h"
#include "harmonic/tokenizer/pretokenizer.h"
#include "harmonic/tokenizer/tokenizer_json.h"

namespace harmonic {
namespace {

// Pieces seen before and their tokens: ordinary text is mostly these. One place a piece, the later one wins,
// so that text without repetition costs little more than without a cache.
class PieceCache {
 public:
  static constexpr size_t max_length = 31;  // bytes of a piece
  static constexpr size_t max_tokens = 8;

  struct Entry {
    std::array<uint64_t, 4>
        key{};  // the piece, zeros, and in the last byte its length and count of tokens - 1
    std::array<int32_t, max_tokens> tokens{};
    size_t count() const { return (key[3] >> 61) + 1; }
  };

  PieceCache() : entries_(size_t{1} << index_bits) {}

  // The place of a piece of 1 to max_length bytes at text[begin], and its key without the count.
  Entry& find(std::string_view text, size_t begin, size_t length, std::array<uint64_t, 4>& key) {
    key = {};
    if (begin + 32 <= text.size()) {
      // Four loads and masks: a copy of variable length costs more than the rest of the look-up.
      std::memcpy(key.data(), text.data() + begin, 32);
      for (size_t word = 0; word < 4; ++word) {
        const size_t bytes = length > word * 8 ? length - word * 8 : 0;
        if (bytes < 8) key[word] &= (uint64_t{1} << (bytes * 8)) - 1;
      }
    } else {
      std::memcpy(key.data(), text.data() + begin, length);
    }
    key[3] |= uint64_t{length} << 56;
    uint64_t hash = key[0] * 0x9E3779B97F4A7C15;
    hash = (std::rotl(hash, 29) ^ key[1]) * 0xC2B2AE3D27D4EB4F;
    hash = (std::rotl(hash, 29) ^ key[2]) * 0x165667B19E3779F9;
    hash = (std::rotl(hash, 29) ^ key[3]) * 0x9E3779B97F4A7C15;
    return entries_[hash >> (64 - index_bits)];
  }
  static bool matches(const Entry& entry, const std::array<uint64_t, 4>& key) {
    constexpr uint64_t without_count = ~(uint64_t{7} << 61);
    return entry.key[0] == key[0] && entry.key[1] == key[1] && entry.key[2] == key[2] &&
           (entry.key[3] & without_count) == key[3];
  }
  static void store(Entry& entry, const std::array<uint64_t, 4>& key, std::span<const int32_t> tokens) {
    if (tokens.empty() || tokens.size() > max_tokens) return;
    entry.key = key;
    entry.key[3] |= uint64_t{tokens.size() - 1} << 61;
    std::copy(tokens.begin(), tokens.end(), entry.tokens.begin());
  }

 private:
  static_assert(std::endian::native == std::endian::little, "the last byte of a key is its highest");
  static constexpr int index_bits = 14;  // 1 MiB of entries
  std::vector<Entry> entries_;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeVocabulary vocabulary, std::string_view source)
      : vocabulary_(std::move(vocabulary)), table_((check(vocabulary_, source), vocabulary_.merges), source) {
    byte_tokens_.fill(kNone);
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      const std::string& token = vocabulary_.tokens[id];
      if (!vocabulary_.special[id] && token.size() == 1)
        byte_tokens_[static_cast<uint8_t>(token[0])] = static_cast<int32_t>(id);
    }
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(vocabulary_.tokens.size()); }
  int32_t eot() const override { return vocabulary_.eot; }
  int32_t special(std::string_view name) const override {
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id)
      if (vocabulary_.special[id] && vocabulary_.tokens[id] == name) return static_cast<int32_t>(id);
    return kNone;
  }

  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    std::unique_ptr<Workspace> workspace = borrow();
    encode_with(*workspace, text, tokens);
    // Not given back after an exception, which may have left it half-way.
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
  }

  std::string_view bytes_of(int32_t token) const override {
    if (token < 0 || token >= vocab_size())
      fail("token {} is outside the vocabulary of {} tokens", token, vocab_size());
    return vocabulary_.special[static_cast<size_t>(token)] ? std::string_view()
                                                           : vocabulary_.tokens[static_cast<size_t>(token)];
  }

  std::string hash() const override {
    std::string all = vocabulary_.splitting == Splitting::gpt2
                          ? "byte-level BPE, GPT-2 splitting\n"
                          : "byte-level BPE, GPT-2 splitting with single digits\n";
    const auto put = [&](int64_t number) {
      all.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    put(vocabulary_.eot);
    put(vocab_size());
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      put(vocabulary_.special[id]);
      put(static_cast<int64_t>(vocabulary_.tokens[id].size()));
      all += vocabulary_.tokens[id];
    }
    for (const BpeMerge& merge : vocabulary_.merges) {
      put(merge.left);
      put(merge.right);
    }
    return sha256(all);
  }

  std::string to_json() const override { return write_tokenizer_json(vocabulary_); }

  size_t cut_position(std::string_view text, size_t from) const override {
    return piece_boundary(text, from);
  }

  size_t first_cut(std::string_view text, bool ended) const override {
    return ended ? piece_end(text, 0, vocabulary_.splitting) : settled_piece_end(text, vocabulary_.splitting);
  }

 private:
  static constexpr int32_t kNone = -1;

  // What one call of encode writes to; the tokenizer keeps as many as were ever in use at once.
  struct Workspace {
    explicit Workspace(const MergeTable& table) : merger(table) {}
    PieceCache cache;
    BpeMerger merger;
    std::vector<int32_t> piece;
  };

  std::unique_ptr<Workspace> borrow() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Workspace>(table_);
    std::unique_ptr<Workspace> workspace = std::move(idle_.back());
    idle_.pop_back();
    return workspace;
  }

  std::span<const int32_t> encode_piece(Workspace& workspace, std::string_view piece) const {
    if (workspace.piece.size() < piece.size() || workspace.piece.size() > kept_piece)
      workspace.piece = std::vector<int32_t>(std::max<size_t>(piece.size(), 256));
    size_t count = 0;
    for (const char byte : piece)
      if (const int32_t token = byte_tokens_[static_cast<uint8_t>(byte)]; token != kNone)
        workspace.piece[count++] = token;
    const std::span<int32_t> tokens(workspace.piece.data(), count);
    return tokens.first(count == 0 ? 0 : workspace.merger.merge(tokens));
  }

  void encode_with(Workspace& workspace, std::string_view text, std::vector<int32_t>& tokens) const {
    constexpr size_t buffer_size = 1024;
    int32_t buffer[buffer_size + PieceCache::max_tokens];
    size_t buffered = 0;
    std::array<uint64_t, 4> key;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = piece_end(text, begin, vocabulary_.splitting), length = end - begin;
      if (length <= PieceCache::max_length) {
        PieceCache::Entry& entry = workspace.cache.find(text, begin, length, key);
        if (!PieceCache::matches(entry, key)) {
          const auto piece = encode_piece(workspace, text.substr(begin, length));
          PieceCache::store(entry, key, piece);
          if (piece.empty() || piece.size() > PieceCache::max_tokens) {
            tokens.insert(tokens.end(), buffer, buffer + buffered);
            tokens.insert(tokens.end(), piece.begin(), piece.end());
            buffered = 0;
            begin = end;
            continue;
          }
        }
        std::memcpy(buffer + buffered, entry.tokens.data(), sizeof entry.tokens);
        buffered += entry.count();
      } else {
        tokens.insert(tokens.end(), buffer, buffer + buffered);
        buffered = 0;
        const auto piece = encode_piece(workspace, text.substr(begin, length));
        tokens.insert(tokens.end(), piece.begin(), piece.end());
      }
      if (buffered >= buffer_size) {
        tokens.insert(tokens.end(), buffer, buffer + buffered);
        buffered = 0;
      }
      begin = end;
    }
    tokens.insert(tokens.end(), buffer, buffer + buffered);
  }

  static void check(const BpeVocabulary& vocabulary, std::string_view source);

  static constexpr size_t kept_piece = size_t{1} << 20;  // tokens; a longer piece's memory is given back
  BpeVocabulary vocabulary_;
  MergeTable table_;
  std::array<int32_t, 256> byte_tokens_{};
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

void BpeTokenizer::check(const BpeVocabulary& vocabulary, std::string_view source) {
  const int64_t size = static_cast<int64_t>(vocabulary.tokens.size());
  HARMONIC_ASSERT(vocabulary.special.size() == vocabulary.tokens.size());
  const auto ordinary = [&](int32_t id) {
    return id >= 0 && id < size && !vocabulary.special[static_cast<size_t>(id)];
  };
  if (vocabulary.eot < 0 || vocabulary.eot >= size || ordinary(vocabulary.eot))
    fail("{}: the end-of-text token {} is no special token of the vocabulary", source, vocabulary.eot);
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.special[id]) continue;
    if (vocabulary.tokens[id].empty()) fail("{}: token {} is empty", source, id);
    const auto [other, is_new] = ids.emplace(vocabulary.tokens[id], id);
    if (!is_new) fail("{}: tokens {} and {} are the same bytes", source, other->second, id);
  }
  for (char character = ' '; character < 0x7F; ++character) {
    if (!ids.contains(std::string_view(&character, 1)))
      fail(
          "{}: no token for the byte 0x{:02x}; a byte-level vocabulary has every printable character of "
          "ASCII",
          source, static_cast<int>(character));
  }
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const BpeMerge& merge = vocabulary.merges[rank];
    if (!ordinary(merge.left) || !ordinary(merge.right) || !ordinary(merge.result))
      fail("{}: merge {} ({} + {} = {}) names a token that is special or not in the vocabulary", source, rank,
           merge.left, merge.right, merge.result);
    const auto token = [&](int32_t id) -> const std::string& {
      return vocabulary.tokens[static_cast<size_t>(id)];
    };
    const std::string &left = token(merge.left), &right = token(merge.right), &result = token(merge.result);
    if (result.size() != left.size() + right.size() || !result.starts_with(left) || !result.ends_with(right))
      fail("{}: merge {} ({} + {}) does not give the bytes of token {}", source, rank, merge.left,
           merge.right, merge.result);
  }
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeVocabulary vocabulary, std::string_view source) {
  return std::make_unique<BpeTokenizer>(std::move(vocabulary), source);
}

}  // namespace harmonic
