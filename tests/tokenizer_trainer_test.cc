#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "harmonic/base/error.h"
#include "harmonic/base/random.h"
#include "harmonic/base/thread_pool.h"
#include "harmonic/tokenizer/bpe_trainer.h"
#include "harmonic/tokenizer/pretokenizer.h"
#include "tests/interrupted_child.h"

namespace harmonic {
namespace {

std::unique_ptr<Tokenizer> train(std::vector<std::string_view> texts, int64_t vocab_size, int threads = 1) {
  ThreadPool pool(threads);
  return train_bpe(texts, vocab_size, pool);
}

// The merged tokens in the order of their merges.
std::vector<std::string> learned(const Tokenizer& tokenizer) {
  std::vector<std::string> tokens;
  for (int32_t id = 256; id + 1 < tokenizer.vocab_size(); ++id) tokens.emplace_back(tokenizer.bytes_of(id));
  return tokens;
}

std::string zipf_text(uint64_t seed, size_t words) {
  const Random random(seed, stream_of("trainer test"));
  std::string text;
  for (uint64_t i = 0; i < words; ++i) {
    uint64_t word = random.below(2 * i, 1 + random.below(2 * i + 1, 300));
    do {
      text += "abcdeaoi"[word % 8];
      word /= 5;
    } while (word > 0);
    text += i % 11 == 0 ? ".\n" : " ";
  }
  return text;
}

// The rule as it is stated: all pairs counted anew before each merge.
std::vector<std::string> train_by_definition(std::string_view text, size_t merges) {
  std::map<std::string, int64_t> counts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = piece_end(text, begin);
    ++counts[std::string(text.substr(begin, end - begin))];
    begin = end;
  }
  std::vector<std::pair<std::vector<int32_t>, int64_t>> pieces;
  for (const auto& [piece, count] : counts) {
    pieces.push_back({{}, count});
    for (char byte : piece) pieces.back().first.push_back(static_cast<uint8_t>(byte));
  }
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  while (tokens.size() < 256 + merges) {
    std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
    for (const auto& [piece, count] : pieces)
      for (size_t i = 0; i + 1 < piece.size(); ++i) pairs[{piece[i], piece[i + 1]}] += count;
    std::pair<int32_t, int32_t> best;
    int64_t most = 1;
    for (const auto& [pair, count] : pairs) {
      const std::string bytes =
          tokens[static_cast<size_t>(pair.first)] + tokens[static_cast<size_t>(pair.second)];
      if (count > most && std::find(tokens.begin(), tokens.end(), bytes) == tokens.end()) {
        best = pair;
        most = count;
      }
    }
    if (most == 1) break;
    const int32_t result = static_cast<int32_t>(tokens.size());
    tokens.push_back(tokens[static_cast<size_t>(best.first)] + tokens[static_cast<size_t>(best.second)]);
    for (auto& [piece, count] : pieces)
      for (size_t i = 0; i + 1 < piece.size(); ++i)
        if (piece[i] == best.first && piece[i + 1] == best.second) {
          piece[i] = result;
          piece.erase(piece.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
  }
  return {tokens.begin() + 256, tokens.end()};
}

}  // namespace

TEST(BpeTrainer, MergesTheMostFrequentPairFirst) {
  const auto tokenizer = train({"abab abab abab abab cd cd"}, 256 + 3 + 1);
  // "ab" eight times, then "abab" four times, then " abab" three times; " c" and "cd" are there twice.
  EXPECT_EQ(learned(*tokenizer), (std::vector<std::string>{"ab", "abab", " abab"}));
  EXPECT_EQ(tokenizer->eot(), 259);
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->encode("abab abab"), (std::vector<int32_t>{257, 258}));
}

TEST(BpeTrainer, OfEqualPairsTheSmallerIdsComeFirst) {
  const auto tokenizer = train({"xb,xb,xa,xa,wz,wz,wy,wy"}, 256 + 4 + 1);
  EXPECT_EQ(learned(*tokenizer), (std::vector<std::string>{"wy", "wz", "xa", "xb"}));
}

TEST(BpeTrainer, FollowsItsDefinition) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const std::string text = zipf_text(seed, 1500) + "aaaaaaaaa aaaaaaaaa aaaaaa aaaaaaaaaaaa";
    EXPECT_EQ(learned(*train({text}, 256 + 150 + 1)), train_by_definition(text, 150)) << "seed " << seed;
  }
}

TEST(BpeTrainer, TheResultDoesNotDependOnThreadsOrOrder) {
  std::vector<std::string> texts;
  for (uint64_t seed = 0; seed < 20; ++seed) texts.push_back(zipf_text(seed, 20'000));
  std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::string hash = train(views, 700, 1)->hash();
  EXPECT_EQ(train(views, 700, 2)->hash(), hash);
  EXPECT_EQ(train(views, 700, 3)->hash(), hash);
  std::reverse(views.begin(), views.end());
  EXPECT_EQ(train(views, 700, 2)->hash(), hash);

  ThreadPool pool(2);
  BpeTrainer trainer(pool);
  for (std::string_view text : views) trainer.add(text);
  EXPECT_EQ(trainer.train(700)->hash(), hash) << "text by text";
}

TEST(BpeTrainer, StopsWhereNothingIsLeftToMerge) {
  const auto tokenizer = train({"ab ab"}, 5000);
  EXPECT_LT(tokenizer->vocab_size(), 300);
  EXPECT_EQ(tokenizer->eot(), tokenizer->vocab_size() - 1);
  EXPECT_EQ(train({}, 1000)->vocab_size(), 257);
  EXPECT_EQ(train({"", ""}, 1000)->vocab_size(), 257);
}

TEST(BpeTrainer, LearnsFromBytesThatAreNoText) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += std::string_view("\xff\xfe\x80\0", 4);
  const auto tokenizer = train({text}, 270);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  EXPECT_LT(tokenizer->encode(text).size(), text.size() / 2);
}

TEST(BpeTrainer, RefusesAVocabularyWithoutRoomForTheBytes) {
  for (const int64_t size : {int64_t{-1}, int64_t{0}, int64_t{256}, int64_t{1} << 40}) {
    try {
      train({"text"}, size);
      ADD_FAILURE() << size << " must be refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::usage);
    }
  }
}

TEST(BpeTrainer, NeitherCountsNorMergesOnceItIsAskedToStop) {
  const std::string text = zipf_text(1, 1000);
  EXPECT_TRUE(is_interrupted([&] {
    ThreadPool pool(2);
    BpeTrainer trainer(pool);
    ::raise(SIGTERM);
    trainer.add(text);
  }));
  EXPECT_TRUE(is_interrupted([&] {
    ThreadPool pool(2);
    BpeTrainer trainer(pool);
    trainer.add(text);
    ::raise(SIGTERM);
    trainer.train(300);
  }));
}

// Quadratic work on a long piece would take an hour here.
TEST(BpeTrainer, AHugePieceDoesNotStopIt) {
  const Random random(3, stream_of("huge piece"));
  std::string letters;
  for (uint64_t i = 0; i < 4'000'000; ++i) letters += static_cast<char>('a' + random.below(i, 4));
  EXPECT_EQ(train({letters}, 400)->vocab_size(), 400);
}

}  // namespace harmonic
