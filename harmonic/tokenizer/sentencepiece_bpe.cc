#include "harmonic/tokenizer/sentencepiece_bpe.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/utf8.h"
#include "harmonic/tokenizer/bpe_merger.h"
#include "harmonic/tokenizer/end_of_text.h"
#include "harmonic/tokenizer/sentencepiece_json.h"

namespace harmonic {
namespace {

using Kind = SentencePieceVocabulary::Kind;
constexpr std::string_view kSpace = " ";
constexpr std::string_view kBeginOfText = "<s>";

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceVocabulary vocabulary, std::string_view source)
      : vocabulary_(std::move(vocabulary)),
        table_((check(vocabulary_, source), vocabulary_.merges), source, true) {
    std::map<int32_t, std::string> specials;
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      const auto token = static_cast<int32_t>(id);
      switch (vocabulary_.kinds[id]) {
        case Kind::text:
          add_characters(token);
          break;
        case Kind::byte:
          byte_tokens_[static_cast<uint8_t>(vocabulary_.tokens[id][0])] = token;
          break;
        case Kind::special:
          if (token != vocabulary_.unknown) specials.emplace(token, vocabulary_.tokens[id]);
      }
    }
    space_ = characters_.at(U' ');
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id)
      if (vocabulary_.kinds[id] == Kind::text) add_neighbours(vocabulary_.tokens[id]);
    eot_ = bos_ = choose_end_of_text(specials, source);
    for (const auto& [id, name] : specials)
      if (name == kBeginOfText) bos_ = id;
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(vocabulary_.tokens.size()); }
  int32_t eot() const override { return eot_; }
  int32_t bos() const override { return bos_; }
  int32_t special(std::string_view name) const override {
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id)
      if (vocabulary_.kinds[id] == Kind::special && vocabulary_.tokens[id] == name)
        return static_cast<int32_t>(id);
    return kNone;
  }
  std::string_view lead() const override { return vocabulary_.leading_space ? kSpace : std::string_view(); }

  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    encode(text, vocabulary_.leading_space, tokens);
  }
  void encode_continuation(std::string_view text, std::vector<int32_t>& tokens) const override {
    encode(text, false, tokens);
  }

  std::string_view bytes_of(int32_t token) const override {
    if (token < 0 || token >= vocab_size())
      fail("token {} is outside the vocabulary of {} tokens", token, vocab_size());
    const auto id = static_cast<size_t>(token);
    return vocabulary_.kinds[id] == Kind::special ? std::string_view() : vocabulary_.tokens[id];
  }

  std::string hash() const override {
    std::string all = "SentencePiece BPE with byte fallback\n";
    const auto put = [&](int64_t number) {
      all.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    put(vocabulary_.leading_space);
    put(bos_);
    put(eot_);
    put(vocab_size());
    for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
      put(static_cast<int64_t>(vocabulary_.kinds[id]));
      put(static_cast<int64_t>(vocabulary_.tokens[id].size()));
      all += vocabulary_.tokens[id];
    }
    for (const BpeMerge& merge : vocabulary_.merges) {
      put(merge.left);
      put(merge.right);
    }
    return sha256(all);
  }

  std::string to_json() const override { return write_sentencepiece_json(vocabulary_, bos_); }

  // A cut is a place between two characters that stand side by side in no token: nothing is merged across it.
  size_t first_cut(std::string_view text, bool ended) const override {
    int32_t before = kNone;
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = read_utf8(text.substr(at));
      if (step.kind == Utf8Step::Kind::incomplete && !ended) return 0;
      const int32_t here = token_of(step);
      if (at > 0 && !may_join(before, here)) return at;
      before = here;
      at += static_cast<size_t>(step.length);
    }
    return ended ? text.size() : 0;
  }

  size_t cut_position(std::string_view text, size_t from) const override {
    if (from == 0) return 0;
    // Every byte that continues no character begins one, or stands alone.
    const auto continues = [&](size_t at) { return (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80; };
    for (size_t at = from; at < text.size(); ++at) {
      if (continues(at)) continue;
      size_t begin = at - 1;
      while (begin > 0 && at - begin < 4 && continues(begin)) --begin;
      const Utf8Step left = read_utf8(text.substr(begin, at - begin));
      const bool whole =
          left.kind == Utf8Step::Kind::character && left.length == static_cast<int>(at - begin);
      if (!whole || !may_join(token_of(left), token_of(read_utf8(text.substr(at))))) return at;
    }
    return text.size();
  }

 private:
  static constexpr int32_t kNone = -1;
  static constexpr size_t kKept = size_t{1} << 20;  // tokens; a longer piece's memory is given back

  // What one call of encode writes to; the tokenizer keeps as many as were ever in use at once.
  struct Workspace {
    explicit Workspace(const MergeTable& table) : merger(table) {}
    BpeMerger merger;
    std::vector<int32_t> piece;
  };

  // The token of a character; none where it has none. U+2581, which stands for a space in the names of
  // tokens, has none: it would come out as a space.
  int32_t token_of(const Utf8Step& step) const {
    if (step.kind != Utf8Step::Kind::character) return kNone;
    if (step.code < ascii_.size()) return ascii_[step.code];
    const auto found = characters_.find(step.code);
    return found == characters_.end() ? kNone : found->second;
  }

  bool may_join(int32_t left, int32_t right) const {
    return left != kNone && right != kNone && neighbours_.contains(pair_of(left, right));
  }
  static uint64_t pair_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  void add_characters(int32_t token) {
    const std::string& text = vocabulary_.tokens[static_cast<size_t>(token)];
    const Utf8Step step = read_utf8(text);
    if (static_cast<size_t>(step.length) != text.size()) return;
    characters_.emplace(step.code, token);
    if (step.code < ascii_.size()) ascii_[step.code] = token;
  }
  void add_neighbours(std::string_view text) {
    for (int32_t before = kNone; !text.empty();) {
      const Utf8Step step = read_utf8(text);
      const int32_t here = token_of(step);
      if (before != kNone && here != kNone) neighbours_.insert(pair_of(before, here));
      before = here;
      text.remove_prefix(static_cast<size_t>(step.length));
    }
  }

  void encode(std::string_view text, bool lead, std::vector<int32_t>& tokens) const {
    if (text.empty()) return;
    std::unique_ptr<Workspace> workspace = borrow();
    std::vector<int32_t>& piece = workspace->piece;
    piece.clear();
    if (lead) piece.push_back(space_);
    const auto finish_piece = [&] {
      const size_t count = workspace->merger.merge(piece);
      tokens.insert(tokens.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(count));
      if (piece.capacity() > kKept) piece = {};
      piece.clear();
    };
    while (!text.empty()) {
      const Utf8Step step = read_utf8(text);
      const auto length = static_cast<size_t>(step.length);
      const int32_t token = token_of(step);
      if (!piece.empty() && !may_join(piece.back(), token)) finish_piece();
      if (token != kNone) {
        piece.push_back(token);
      } else {
        for (const char byte : text.substr(0, length))
          tokens.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
      }
      text.remove_prefix(length);
    }
    if (!piece.empty()) finish_piece();
    // Not given back after an exception, which may have left it half-way.
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
  }

  std::unique_ptr<Workspace> borrow() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Workspace>(table_);
    std::unique_ptr<Workspace> workspace = std::move(idle_.back());
    idle_.pop_back();
    return workspace;
  }

  static void check(const SentencePieceVocabulary& vocabulary, std::string_view source);

  SentencePieceVocabulary vocabulary_;
  MergeTable table_;
  int32_t bos_ = kNone, eot_ = kNone, space_ = kNone;
  std::array<int32_t, 256> byte_tokens_{};
  std::array<int32_t, 128> ascii_ = [] {
    std::array<int32_t, 128> none;
    none.fill(kNone);
    return none;
  }();
  std::unordered_map<char32_t, int32_t> characters_;
  std::unordered_set<uint64_t> neighbours_;  // pairs of characters that stand side by side in some token
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

void SentencePieceTokenizer::check(const SentencePieceVocabulary& vocabulary, std::string_view source) {
  HARMONIC_ASSERT(vocabulary.kinds.size() == vocabulary.tokens.size());
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  std::unordered_map<std::string_view, size_t> ids;
  std::array<int64_t, 256> bytes;
  bytes.fill(-1);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (vocabulary.kinds[id] == Kind::text) {
      if (token.empty() || !is_utf8(token)) fail("{}: token {} is empty or no UTF-8", source, id);
      const auto [other, is_new] = ids.emplace(token, id);
      if (!is_new) fail("{}: tokens {} and {} are the same text", source, other->second, id);
    } else if (vocabulary.kinds[id] == Kind::byte) {
      HARMONIC_ASSERT(token.size() == 1);
      int64_t& taken = bytes[static_cast<uint8_t>(token[0])];
      if (taken >= 0)
        fail("{}: tokens {} and {} both stand for the byte 0x{:02X}", source, taken, id,
             static_cast<uint8_t>(token[0]));
      taken = static_cast<int64_t>(id);
    }
  }
  if (const auto missing = std::find(bytes.begin(), bytes.end(), -1); missing != bytes.end())
    fail("{}: no token <0x{:02X}>; a vocabulary with byte fallback has one for each of the 256 bytes", source,
         missing - bytes.begin());
  if (!ids.contains(kSpace))
    fail("{}: no token for the space, \xE2\x96\x81, which every text of this kind has", source);
  const auto is_text = [&](int32_t id) {
    return id >= 0 && id < size && vocabulary.kinds[static_cast<size_t>(id)] == Kind::text;
  };
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const BpeMerge& merge = vocabulary.merges[rank];
    if (!is_text(merge.left) || !is_text(merge.right) || !is_text(merge.result))
      fail("{}: merge {} ({} + {} = {}) names a token that is no text", source, rank, merge.left, merge.right,
           merge.result);
    const auto token = [&](int32_t id) -> const std::string& {
      return vocabulary.tokens[static_cast<size_t>(id)];
    };
    const std::string &left = token(merge.left), &right = token(merge.right), &result = token(merge.result);
    if (result.size() != left.size() + right.size() || !result.starts_with(left) || !result.ends_with(right))
      fail("{}: merge {} ({} + {}) does not give the text of token {}", source, rank, merge.left, merge.right,
           merge.result);
  }
}

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceVocabulary vocabulary,
                                                        std::string_view source) {
  return std::make_unique<SentencePieceTokenizer>(std::move(vocabulary), source);
}

std::vector<BpeMerge> merges_from_scores(const SentencePieceVocabulary& vocabulary,
                                         std::span<const float> scores, std::string_view source) {
  constexpr size_t kMost = size_t{1} << 22;
  HARMONIC_ASSERT(scores.size() == vocabulary.tokens.size());
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id)
    if (vocabulary.kinds[id] == Kind::text) ids.emplace(vocabulary.tokens[id], static_cast<int32_t>(id));
  std::vector<BpeMerge> merges;
  for (const auto& [text, result] : ids) {
    stop_if_interrupted();
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = ids.find(text.substr(0, cut)), right = ids.find(text.substr(cut));
      if (left != ids.end() && right != ids.end()) merges.push_back({left->second, right->second, result});
    }
    if (merges.size() > kMost)
      fail("{}: its tokens can be merged in more than {} ways: no vocabulary that texts were cut with",
           source, kMost);
  }
  std::sort(merges.begin(), merges.end(), [&](const BpeMerge& a, const BpeMerge& b) {
    const float first = scores[static_cast<size_t>(a.result)], second = scores[static_cast<size_t>(b.result)];
    if (first != second) return first > second;
    return std::tie(a.result, a.left, a.right) < std::tie(b.result, b.left, b.right);
  });
  return merges;
}

}  // namespace harmonic
