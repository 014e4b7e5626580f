// Learns the merges of a byte-level BPE vocabulary from text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "harmonic/base/thread_pool.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Counts pieces of text (pretokenizer.h), then merges again and again the pair of tokens that is most
// frequent in them. The result depends on the counts alone: not on the order of the texts nor on the threads.
// Of pairs equally frequent, the one with the smaller left id is merged first, then the one with the smaller
// right id. Pairs seen once are not merged, nor are pairs whose bytes are a token already; pieces of more
// than 128 bytes count as several. One thread at a time may use a trainer. Both steps throw Interrupted when
// the program is asked to stop.
class BpeTrainer {
 public:
  static constexpr int64_t kLeastVocabulary = 257;  // the bytes and the end of text
  static constexpr int64_t kMostVocabulary = int64_t{1} << 24;

  // The pool must outlive the trainer.
  explicit BpeTrainer(ThreadPool& pool) : pool_(pool), counts_(static_cast<size_t>(pool.threads())) {}

  // Texts are independent of each other and need not live longer than the call. Many at once use the threads
  // better.
  void add(std::span<const std::string_view> texts);
  void add(std::string_view text) { add(std::span(&text, 1)); }

  // Ids: the bytes 0 to 255 as themselves, the merges in their order, <|endoftext|> last. The vocabulary is
  // smaller than asked where the text has no more pairs to merge. Throws Error (usage) unless it is
  // from kLeastVocabulary to kMostVocabulary.
  std::unique_ptr<Tokenizer> train(int64_t vocab_size) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view piece) const { return std::hash<std::string_view>()(piece); }
  };
  using Counts = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;
  static void count_pieces(std::string_view text, Counts& counts);

  ThreadPool& pool_;
  std::vector<Counts> counts_;  // one for each thread, to be added up
};

// All at once.
std::unique_ptr<Tokenizer> train_bpe(std::span<const std::string_view> texts, int64_t vocab_size,
                                     ThreadPool& pool);

}  // namespace harmonic
