#include "harmonic/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <atomic>
#include <queue>
#include <unordered_set>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/tokenizer/bpe.h"
#include "harmonic/tokenizer/pretokenizer.h"

namespace harmonic {
namespace {

constexpr size_t max_piece = 128;  // bytes; bounds the work that one piece can cause at each merge
constexpr int64_t least_count = 2;

struct Piece {
  size_t begin;     // in the array of all tokens
  uint32_t length;  // in tokens, shrinking as pairs are merged
  int64_t count;    // in the text
};

struct Pair {
  int64_t count;
  int32_t left, right;
  // For a queue with the next pair to be merged on top.
  bool operator<(const Pair& other) const {
    if (count != other.count) return count < other.count;
    if (left != other.left) return left > other.left;
    return right > other.right;
  }
};

struct PairUse {
  int64_t count = 0;             // in the text
  std::vector<uint32_t> pieces;  // that hold the pair, or held it once
};

// The distinct pieces as tokens, and where each pair of neighbours is found.
class PairIndex {
 public:
  void add(std::string_view piece, int64_t count) {
    const Piece added{tokens_.size(), static_cast<uint32_t>(piece.size()), count};
    for (char byte : piece) tokens_.push_back(static_cast<uint8_t>(byte));
    for (size_t i = added.begin; i + 1 < tokens_.size(); ++i)
      note(key_of(tokens_[i], tokens_[i + 1]), count, static_cast<uint32_t>(pieces_.size()));
    pieces_.push_back(added);
  }

  template <typename Use>
  void for_each(const Use& use) const {
    for (const auto& [key, pair] : pairs_) use(pair_of(key, pair.count));
  }

  int64_t count(const Pair& pair) const {
    const auto found = pairs_.find(key_of(pair.left, pair.right));
    return found == pairs_.end() ? 0 : found->second.count;
  }

  // Replaces the pair by `result`, a new token, in all pieces, and calls use(Pair) for each pair that is new.
  template <typename Use>
  void merge(const Pair& pair, int32_t result, const Use& use) {
    const uint64_t merged_key = key_of(pair.left, pair.right);
    const std::vector<uint32_t> places = std::move(pairs_[merged_key].pieces);
    created_.clear();
    for (uint32_t place : places) {
      Piece& piece = pieces_[place];
      // Only pairs beside a merged one change: counting all of a long piece again would cost its length
      // squared.
      int32_t* tokens = tokens_.data() + piece.begin;
      uint32_t length = 0;
      for (uint32_t i = 0; i < piece.length; ++length) {
        if (i + 1 == piece.length || tokens[i] != pair.left || tokens[i + 1] != pair.right) {
          tokens[length] = tokens[i++];
          continue;
        }
        if (length > 0) {
          const int32_t before = tokens[length - 1];
          pairs_[key_of(before, pair.left)].count -= piece.count;
          note(key_of(before, result), piece.count, place);
        }
        if (i + 2 < piece.length) {
          const int32_t after = tokens[i + 2];
          pairs_[key_of(pair.right, after)].count -= piece.count;
          note(key_of(result, after), piece.count, place);
        }
        tokens[length] = result;
        i += 2;
      }
      piece.length = length;
    }
    pairs_.erase(merged_key);
    for (uint64_t key : created_) use(pair_of(key, pairs_[key].count));
  }

 private:
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  static int32_t left_of(uint64_t key) { return static_cast<int32_t>(key >> 32); }
  static int32_t right_of(uint64_t key) { return static_cast<int32_t>(key & 0xFFFFFFFF); }
  static Pair pair_of(uint64_t key, int64_t count) { return {count, left_of(key), right_of(key)}; }

  void note(uint64_t key, int64_t count, uint32_t place) {
    const auto [use, is_new] = pairs_.try_emplace(key);
    if (is_new) created_.push_back(key);
    use->second.count += count;
    if (use->second.pieces.empty() || use->second.pieces.back() != place) use->second.pieces.push_back(place);
  }

  struct KeyHash {
    size_t operator()(uint64_t key) const { return (key * 0x9E3779B97F4A7C15) >> 20; }
  };
  std::vector<int32_t> tokens_;
  std::vector<Piece> pieces_;
  std::unordered_map<uint64_t, PairUse, KeyHash> pairs_;
  std::vector<uint64_t> created_;
};

}  // namespace

void BpeTrainer::count_pieces(std::string_view text, Counts& counts) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = piece_end(text, begin);
    for (; begin < end; begin += std::min(max_piece, end - begin)) {
      const std::string_view piece = text.substr(begin, std::min(max_piece, end - begin));
      const auto found = counts.find(piece);
      if (found != counts.end())
        ++found->second;
      else
        counts.emplace(piece, 1);
    }
  }
}

void BpeTrainer::add(std::span<const std::string_view> texts) {
  constexpr size_t stretch = size_t{1} << 18;
  std::vector<std::string_view> stretches;
  for (std::string_view text : texts)
    for (size_t begin = 0; begin < text.size();) {
      const size_t wanted = begin + stretch;
      const size_t end = wanted < text.size() ? piece_boundary(text, wanted) : text.size();
      stretches.push_back(text.substr(begin, end - begin));
      begin = end;
    }
  std::atomic<size_t> next{0};
  const int64_t workers = std::min<int64_t>(pool_.threads(), static_cast<int64_t>(stretches.size()));
  pool_.parallel_for(workers, [&](int64_t worker) {
    for (size_t i = next++; i < stretches.size(); i = next++) {
      stop_if_interrupted();
      count_pieces(stretches[i], counts_[static_cast<size_t>(worker)]);
    }
  });
}

std::unique_ptr<Tokenizer> BpeTrainer::train(int64_t vocab_size) const {
  if (vocab_size < kLeastVocabulary || vocab_size > kMostVocabulary)
    fail_usage(
        "a vocabulary of {} tokens is not possible: expected from {} (the bytes and the end of text) to {}",
        vocab_size, kLeastVocabulary, kMostVocabulary);

  // In the order of their bytes, so that nothing depends on the hash tables.
  std::vector<std::pair<std::string_view, int64_t>> pieces;
  for (const Counts& counts : counts_) pieces.insert(pieces.end(), counts.begin(), counts.end());
  std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) {
    stop_if_interrupted();
    return a < b;
  });
  PairIndex index;
  for (size_t i = 0; i < pieces.size();) {
    stop_if_interrupted();
    const std::string_view piece = pieces[i].first;
    int64_t count = 0;
    for (; i < pieces.size() && pieces[i].first == piece; ++i) count += pieces[i].second;
    index.add(piece, count);
  }

  BpeVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
  std::unordered_set<std::string> known(vocabulary.tokens.begin(), vocabulary.tokens.end());
  std::priority_queue<Pair> queue;
  index.for_each([&](const Pair& pair) { queue.push(pair); });
  while (static_cast<int64_t>(vocabulary.tokens.size()) + 1 < vocab_size && !queue.empty()) {
    stop_if_interrupted();
    Pair pair = queue.top();
    queue.pop();
    // Counts only fall once a pair is in the queue: what has fallen goes back to its place.
    const int64_t count = index.count(pair);
    if (count < least_count) continue;
    if (count != pair.count) {
      pair.count = count;
      queue.push(pair);
      continue;
    }
    std::string bytes = vocabulary.tokens[static_cast<size_t>(pair.left)];
    bytes += vocabulary.tokens[static_cast<size_t>(pair.right)];
    if (!known.insert(bytes).second) continue;
    const int32_t result = static_cast<int32_t>(vocabulary.tokens.size());
    vocabulary.tokens.push_back(std::move(bytes));
    vocabulary.merges.push_back({pair.left, pair.right, result});
    index.merge(pair, result, [&](const Pair& created) { queue.push(created); });
  }

  vocabulary.eot = static_cast<int32_t>(vocabulary.tokens.size());
  vocabulary.tokens.emplace_back("<|endoftext|>");
  vocabulary.special.assign(vocabulary.tokens.size(), false);
  vocabulary.special.back() = true;
  return make_bpe_tokenizer(std::move(vocabulary), "trained vocabulary");
}

std::unique_ptr<Tokenizer> train_bpe(std::span<const std::string_view> texts, int64_t vocab_size,
                                     ThreadPool& pool) {
  BpeTrainer trainer(pool);
  trainer.add(texts);
  return trainer.train(vocab_size);
}

}  // namespace harmonic
