#include "harmonic/tokenizer/bpe.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <set>
#include <thread>

#include "harmonic/base/error.h"
#include "harmonic/base/random.h"
#include "harmonic/base/thread_pool.h"
#include "harmonic/tokenizer/bpe_merger.h"
#include "harmonic/tokenizer/bpe_trainer.h"
#include "harmonic/tokenizer/parallel_encode.h"
#include "harmonic/tokenizer/pretokenizer.h"
#include "harmonic/tokenizer/tokenizer_json.h"

namespace harmonic {
namespace {

// The definition: the pair of lowest rank, the leftmost of those, again and again.
std::vector<int32_t> merge_by_definition(std::vector<int32_t> tokens, const std::vector<BpeMerge>& merges) {
  for (;;) {
    size_t best_rank = merges.size(), best_at = 0;
    for (size_t at = 0; at + 1 < tokens.size(); ++at)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (merges[rank].left == tokens[at] && merges[rank].right == tokens[at + 1]) {
          best_rank = rank;
          best_at = at;
        }
    if (best_rank == merges.size()) return tokens;
    tokens[best_at] = merges[best_rank].result;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

// Merges of three letters 0, 1, 2 and of what they gave, by chance; in the order of training or in any order.
std::vector<BpeMerge> random_merges(const Random& random, size_t count, bool in_order) {
  std::vector<BpeMerge> merges;
  std::set<std::pair<int32_t, int32_t>> pairs;
  for (uint64_t i = 0; merges.size() < count; ++i) {
    const int32_t known = static_cast<int32_t>(3 + merges.size());
    const int32_t left = static_cast<int32_t>(random.below(4 * i, static_cast<uint64_t>(known)));
    const int32_t right = static_cast<int32_t>(random.below(4 * i + 1, static_cast<uint64_t>(known)));
    if (pairs.emplace(left, right).second) merges.push_back({left, right, known});
  }
  if (!in_order)
    for (size_t i = merges.size() - 1; i > 0; --i)
      std::swap(merges[i], merges[random.below(1'000'000 + i, i + 1)]);
  return merges;
}

std::string mixed_text(uint64_t seed, size_t words) {
  static const std::string parts[] = {
      " the", " of",      " language", "'s",   "\n\n", " 1984",
      "!",    "\xff\xfe", " Grüße",    "日本", "    ", " aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
      "ing"};
  const Random random(seed, stream_of("mixed text"));
  std::string text;
  for (uint64_t i = 0; i < words; ++i) text += parts[random.below(i, std::size(parts))];
  return text;
}

std::unique_ptr<Tokenizer> small_tokenizer() {
  ThreadPool pool(1);
  const std::string text = mixed_text(1, 3000);
  const std::string_view view = text;
  return train_bpe({&view, 1}, 300, pool);
}

BpeVocabulary byte_vocabulary() {
  BpeVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
  vocabulary.tokens.emplace_back("<|endoftext|>");
  vocabulary.special.assign(257, false);
  vocabulary.special[256] = true;
  vocabulary.eot = 256;
  return vocabulary;
}

}  // namespace

TEST(BpeMerger, MergesTheLowestRankThenTheLeftmost) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Random random(seed, stream_of("merger test"));
    const bool in_order = seed % 2 == 0;
    const std::vector<BpeMerge> merges = random_merges(random, 2 + seed % 30, in_order);
    const MergeTable table(merges, "test");
    BpeMerger merger(table);
    for (const size_t length : {1, 2, 3, 17, 95, 96, 97, 400}) {
      std::vector<int32_t> tokens(length);
      for (size_t i = 0; i < length; ++i)
        tokens[i] = static_cast<int32_t>(random.below(5'000'000 + length * 1000 + i, 1 + seed % 3));
      const std::vector<int32_t> expected = merge_by_definition(tokens, merges);
      tokens.resize(merger.merge(tokens));
      ASSERT_EQ(tokens, expected) << "seed " << seed << ", " << length << " tokens, merges "
                                  << (in_order ? "in order" : "shuffled");
    }
  }
}

TEST(BpeEncoder, AnyBytesSurviveEncodeAndDecode) {
  const auto tokenizer = small_tokenizer();
  EXPECT_TRUE(rc::check([&](const std::vector<uint8_t>& bytes) {
    const std::string text(bytes.begin(), bytes.end());
    RC_ASSERT(tokenizer->decode(tokenizer->encode(text)) == text);
  }));
  EXPECT_TRUE(tokenizer->encode("").empty());
}

TEST(BpeEncoder, TokensDoNotDependOnWhatWasEncodedBefore) {
  const auto tokenizer = small_tokenizer();
  // More words than the encoder remembers, so that they drive each other out.
  const Random random(7, stream_of("many words"));
  std::string text;
  for (uint64_t i = 0; i < 60'000; ++i) {
    for (uint64_t value = random.below(i, 100'000); value > 0; value /= 7) text += "aegulnt"[value % 7];
    text += i % 9 == 0 ? " language 1984\n" : " ";
  }
  const std::vector<int32_t> first = tokenizer->encode(text);
  EXPECT_EQ(tokenizer->encode(text), first);

  // Words by a tokenizer that has seen nothing else.
  std::string json = tokenizer->to_json();
  size_t at = 0, begin = 0;
  for (int checked = 0; begin < text.size(); ++checked) {
    const size_t end = piece_end(text, begin);
    const std::string piece = text.substr(begin, end - begin);
    if (checked % 997 == 0) {
      const std::vector<int32_t> alone = read_tokenizer_json(json, "test")->encode(piece);
      ASSERT_LE(at + alone.size(), first.size());
      ASSERT_TRUE(std::equal(alone.begin(), alone.end(), first.begin() + static_cast<std::ptrdiff_t>(at)))
          << piece;
    }
    at += tokenizer->encode(piece).size();
    begin = end;
  }
  EXPECT_EQ(at, first.size());
}

TEST(BpeEncoder, AppendsToTheTokensItIsGiven) {
  const auto tokenizer = small_tokenizer();
  std::vector<int32_t> tokens = {tokenizer->eot()};
  tokenizer->encode("language", tokens);
  ASSERT_GT(tokens.size(), 1u);
  EXPECT_EQ(tokens[0], tokenizer->eot());
  EXPECT_EQ(tokenizer->decode(tokens), "language") << "a special token has no bytes";
}

TEST(BpeEncoder, SeveralThreadsMayEncodeAtOnce) {
  const auto tokenizer = small_tokenizer();
  const std::string text = mixed_text(8, 3000);
  const std::vector<int32_t> expected = tokenizer->encode(text);
  std::vector<std::vector<int32_t>> found(4);
  std::vector<std::thread> threads;
  for (auto& tokens : found)
    threads.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        tokens.clear();
        tokenizer->encode(text, tokens);
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& tokens : found) EXPECT_EQ(tokens, expected);
}

TEST(BpeEncoder, InParallelGivesTheTokensOfTheWhole) {
  const auto tokenizer = small_tokenizer();
  ThreadPool pool(2);
  const std::string text = mixed_text(9, 400'000);  // several stretches
  EXPECT_EQ(encode_in_parallel(*tokenizer, text, pool), tokenizer->encode(text));
  for (const size_t size : {size_t{1}, size_t{100}, size_t{10'000}}) {
    std::vector<int32_t> tokens;
    std::string joined;
    const std::string part = text.substr(0, 50'000);
    for (std::string_view stretch : independent_stretches(*tokenizer, part, size)) {
      tokenizer->encode(stretch, tokens);
      joined += stretch;
    }
    EXPECT_EQ(joined, part);
    EXPECT_EQ(tokens, tokenizer->encode(part)) << "stretches of " << size;
  }
  EXPECT_TRUE(encode_in_parallel(*tokenizer, "", pool).empty());
  const std::string letters(3'000'000, 'a');  // nowhere to cut
  EXPECT_EQ(encode_in_parallel(*tokenizer, letters, pool), tokenizer->encode(letters));
}

TEST(BpeVocabulary, IsRefusedWhereItCouldNotBeRight) {
  using Change = void (*)(BpeVocabulary&);
  const std::pair<const char*, Change> cases[] = {
      {"a byte without a token", [](BpeVocabulary& v) { v.tokens[65] = "AA"; }},
      {"an empty token", [](BpeVocabulary& v) { v.tokens[65] = ""; }},
      {"the same bytes twice", [](BpeVocabulary& v) { v.tokens[65] = "B"; }},
      {"no end of text", [](BpeVocabulary& v) { v.eot = -1; }},
      {"an end of text out of range", [](BpeVocabulary& v) { v.eot = 257; }},
      {"an end of text that is text", [](BpeVocabulary& v) { v.eot = 65; }},
      {"a merge of no token",
       [](BpeVocabulary& v) {
         v.merges = {{65, 300, 66}};
       }},
      {"a merge of a negative token",
       [](BpeVocabulary& v) {
         v.merges = {{-1, 65, 66}};
       }},
      {"a merge to other bytes",
       [](BpeVocabulary& v) {
         v.merges = {{65, 66, 67}};
       }},
      {"a merge of a special token",
       [](BpeVocabulary& v) {
         v.merges = {{65, 256, 66}};
       }},
      {"a merge twice",
       [](BpeVocabulary& v) {
         v.tokens.emplace_back("AB");
         v.special.push_back(false);
         v.merges = {{65, 66, 257}, {65, 66, 257}};
       }},
  };
  EXPECT_NO_THROW(make_bpe_tokenizer(byte_vocabulary(), "test"));
  for (const auto& [name, change] : cases) {
    BpeVocabulary vocabulary = byte_vocabulary();
    change(vocabulary);
    EXPECT_THROW(make_bpe_tokenizer(std::move(vocabulary), "test"), Error) << name;
  }
}

TEST(BpeVocabulary, EverythingThatDecidesIdsIsInTheHash) {
  const auto hash = [](const BpeVocabulary& vocabulary) {
    return make_bpe_tokenizer(vocabulary, "test")->hash();
  };
  const std::string plain = hash(byte_vocabulary());
  BpeVocabulary swapped = byte_vocabulary();
  std::swap(swapped.tokens[65], swapped.tokens[66]);
  EXPECT_NE(hash(swapped), plain);
  BpeVocabulary longer = byte_vocabulary();
  longer.tokens.emplace_back("AB");
  longer.special.push_back(false);
  EXPECT_NE(hash(longer), plain);
  BpeVocabulary merging = longer;
  merging.merges = {{65, 66, 257}};
  EXPECT_NE(hash(merging), hash(longer));
  EXPECT_EQ(hash(byte_vocabulary()), plain);
  EXPECT_EQ(plain.size(), 64u);
}

}  // namespace harmonic
