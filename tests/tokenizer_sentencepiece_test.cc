// SentencePiece's byte-pair encoding: the ids that SentencePiece gives, from every file that can hold it.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/random.h"
#include "harmonic/base/utf8.h"
#include "harmonic/tokenizer/parallel_encode.h"
#include "harmonic/tokenizer/sentencepiece_model.h"
#include "harmonic/tokenizer/tokenizer_json.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

using Json = nlohmann::json;
using Kind = SentencePieceVocabulary::Kind;

int32_t id_of(const SentencePieceVocabulary& vocabulary, std::string_view text) {
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id)
    if (vocabulary.kinds[id] == Kind::text && vocabulary.tokens[id] == text) return static_cast<int32_t>(id);
  return -1;
}

// SentencePiece's rule as it is written: of all neighbours whose text together is a token, the pair of the
// highest score, the leftmost of those, is joined, until there is none.
std::vector<int32_t> naive_encode(const ScoredVocabulary& scored, std::string_view text) {
  std::vector<std::string> symbols;
  const std::string whole = " " + std::string(text);
  for (std::string_view rest = whole; !rest.empty();) {
    const Utf8Step step = read_utf8(rest);
    symbols.emplace_back(rest.substr(0, static_cast<size_t>(step.length)));
    rest.remove_prefix(static_cast<size_t>(step.length));
  }
  for (;;) {
    size_t best = symbols.size();
    float score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const int32_t id = id_of(scored.vocabulary, symbols[i] + symbols[i + 1]);
      if (id < 0) continue;
      const float found = scored.scores[static_cast<size_t>(id)];
      if (best == symbols.size() || found > score) {
        best = i;
        score = found;
      }
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) {
    const int32_t id = id_of(scored.vocabulary, symbol);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      for (const char byte : symbol) ids.push_back(3 + static_cast<uint8_t>(byte));
    }
  }
  return ids;
}

// Pieces of text that matter to this kind of tokenizer, and bytes of any kind.
std::string random_text(uint64_t seed, size_t pieces) {
  const std::vector<std::string> words = {" ",
                                          "  ",
                                          "the",
                                          " the",
                                          "once",
                                          "aaa",
                                          "\n",
                                          "\xC3\xA9t",
                                          "\xE2\x96\x81",
                                          "\xE2\x82\xAC",
                                          "\xF0\x9F\x98\x80",
                                          "\x80",
                                          "\xE2\x82",
                                          std::string(1, '\0'),
                                          "<s>",
                                          "<0x41>"};
  const Random random(seed, stream_of("sentencepiece test"));
  std::string text;
  for (size_t i = 0; i < pieces; ++i) {
    const uint64_t choice = random.below(2 * i, words.size() + 2);
    text += choice < words.size() ? words[choice] : std::string(1, static_cast<char>(random.bits(2 * i + 1)));
  }
  return text;
}

std::string complaint(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string json_complaint(const Json& file) {
  return complaint([&] { read_tokenizer_json(file.dump(), "t.json"); });
}
std::string model_complaint(const std::string& content) {
  return complaint([&] { read_sentencepiece_model(content, "t.model"); });
}

}  // namespace

TEST(SentencePiece, TheBestScoreAndOfThoseTheLeftmostIsMergedFirst) {
  // Vocabularies of strings over two letters and the space, where everything overlaps with everything.
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Random random(seed, stream_of("vocabulary"));
    uint64_t draw = 0;
    const auto letters = [&](uint64_t longest) {
      std::string text;
      for (uint64_t count = 2 + random.below(draw++, longest - 1); count > 0; --count)
        text += "ab "[random.below(draw++, 3)];
      return text;
    };
    std::vector<std::string> texts;
    for (int i = 0; i < 40; ++i) {
      const std::string text = letters(5);
      if (std::find(texts.begin(), texts.end(), text) == texts.end()) texts.push_back(text);
    }
    const ScoredVocabulary scored = scored_vocabulary(texts, {" ", "a", "b"});
    const auto tokenizer = make_sentencepiece_tokenizer(scored.vocabulary, "random");
    for (int i = 0; i < 20; ++i) {
      const std::string text = letters(300);
      ASSERT_EQ(tokenizer->encode(text), naive_encode(scored, text)) << "seed " << seed << ": " << text;
    }
  }
}

TEST(SentencePiece, ATextBeginsWithASpaceThatIsNotItsOwn) {
  const auto tokenizer = small_sentencepiece();
  const SentencePieceVocabulary vocabulary = small_scored_vocabulary().vocabulary;
  EXPECT_EQ(tokenizer->encode("the"), std::vector<int32_t>{id_of(vocabulary, " the")});
  EXPECT_EQ(tokenizer->encode(" the"),
            (std::vector<int32_t>{id_of(vocabulary, " "), id_of(vocabulary, " the")}));
  EXPECT_EQ(tokenizer->encode(""), std::vector<int32_t>{});
  std::vector<int32_t> tokens;
  tokenizer->encode_continuation("the", tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{id_of(vocabulary, "t"), id_of(vocabulary, "he")}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the")), "the");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" the")), " the");
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eot(), 2);
  const int32_t the = id_of(vocabulary, " the");
  EXPECT_EQ(tokenizer->decode({1, the, the, 2, 1, the}), "the thethe")
      << "each text begins without the space";
}

TEST(SentencePiece, AnyBytesSurviveEncodeAndDecode) {
  const auto tokenizer = small_sentencepiece();
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << byte;
  }
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const std::string text = random_text(seed, seed % 60);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << "seed " << seed;
  }
}

TEST(SentencePiece, PartsBetweenCutsHaveTheTokensOfTheWhole) {
  const auto tokenizer = small_sentencepiece();
  int64_t cuts = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = random_text(seed, 40);
    const std::vector<int32_t> whole = tokenizer->encode(text);
    for (size_t from = 1; from < text.size(); ++from) {
      const size_t cut = tokenizer->cut_position(text, from);
      ASSERT_GE(cut, from);
      std::vector<int32_t> parts = tokenizer->encode(text.substr(0, cut));
      tokenizer->encode_continuation(std::string_view(text).substr(cut), parts);
      ASSERT_EQ(parts, whole) << "seed " << seed << " at " << cut;
      cuts += cut < text.size();
    }
    std::vector<int32_t> parts;
    for (size_t begin = 0; begin < text.size();) {
      const std::string_view rest = std::string_view(text).substr(begin);
      const size_t cut = tokenizer->first_cut(rest, true);
      ASSERT_GT(cut, 0u);
      // What is decided while more may follow stays decided, and soon enough.
      const size_t early = tokenizer->first_cut(rest.substr(0, std::min(rest.size(), cut + 4)), false);
      if (cut + 4 <= rest.size()) {
        ASSERT_EQ(early, cut);
      }
      if (begin == 0) {
        tokenizer->encode(rest.substr(0, cut), parts);
      } else {
        tokenizer->encode_continuation(rest.substr(0, cut), parts);
      }
      begin += cut;
    }
    ASSERT_EQ(parts, whole) << "seed " << seed;
  }
  EXPECT_GT(cuts, 1000);
}

TEST(SentencePiece, ALongTextOnSeveralThreadsHasTheTokensItHasInOnePiece) {
  const auto tokenizer = small_sentencepiece();
  const std::string text = random_text(1, 600'000);
  ThreadPool pool(2);
  EXPECT_EQ(encode_in_parallel(*tokenizer, text, pool), tokenizer->encode(text));
}

TEST(SentencePiece, TheWorstTextsTakeTimeThatIsNearlyLinear) {
  const auto tokenizer = make_sentencepiece_tokenizer(
      scored_vocabulary({"aa", "aaa", "aaaa", "aaaaaaaa", "ab", "ba", "abab"}, {" ", "a", "b"}).vocabulary,
      "periods");
  for (const char* period : {"a", "ab", "aab"}) {
    std::string text;
    while (text.size() < 1 << 20) text += period;
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    // A quadratic loop would take hours.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << period;
  }
}

TEST(SentencePiece, AsTokenizerJsonItIsTheSameTokenizer) {
  for (const bool leading_space : {true, false}) {
    ScoredVocabulary scored = small_scored_vocabulary();
    scored.vocabulary.leading_space = leading_space;
    const auto tokenizer = make_sentencepiece_tokenizer(scored.vocabulary, "small");
    const auto again = read_tokenizer_json(tokenizer->to_json(), "t.json");
    EXPECT_EQ(again->hash(), tokenizer->hash());
    EXPECT_EQ(again->to_json(), tokenizer->to_json());
    EXPECT_EQ(again->encode("once the"), tokenizer->encode("once the"));
    EXPECT_EQ(again->lead(), leading_space ? " " : "");
  }
}

TEST(SentencePiece, AsSentencePiecesOwnModelItIsTheSameTokenizer) {
  const auto tokenizer = small_sentencepiece();
  EXPECT_EQ(read_sentencepiece_model(sentencepiece_model_of(small_scored_vocabulary()), "t.model")->hash(),
            tokenizer->hash());
}

TEST(SentencePiece, MetaspaceSaysTheSameAsTheNormalizer) {
  Json file = Json::parse(small_sentencepiece()->to_json());
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "\xE2\x96\x81"}, {"prepend_scheme", "first"}, {"split", false}};
  EXPECT_EQ(read_tokenizer_json(file.dump(), "t.json")->hash(), small_sentencepiece()->hash());
  file["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(read_tokenizer_json(file.dump(), "t.json")->lead(), "");
}

TEST(SentencePiece, WithoutATokenThatBeginsTextsTheEndOfTextLeadsThem) {
  Json file = Json::parse(small_sentencepiece()->to_json());
  file["added_tokens"].erase(1);
  file["model"]["vocab"].erase("<s>");
  file["model"]["vocab"]["q"] = 1;
  const auto only_end = read_tokenizer_json(file.dump(), "t.json");
  EXPECT_EQ(only_end->bos(), 2);
  EXPECT_EQ(only_end->eot(), 2);
  Json other = Json::parse(small_sentencepiece()->to_json());
  other["added_tokens"].erase(2);
  const auto only_begin = read_tokenizer_json(other.dump(), "t.json");
  EXPECT_EQ(only_begin->bos(), 1);
  EXPECT_EQ(only_begin->eot(), 1) << "the only special token but the unknown one";
  EXPECT_EQ(read_tokenizer_json(only_begin->to_json(), "t.json")->hash(), only_begin->hash());
}

TEST(SentencePiece, WhatWouldChangeTheTokensIsRefusedByName) {
  const Json good = Json::parse(small_sentencepiece()->to_json());
  ASSERT_EQ(json_complaint(good), "");
  const auto with = [&](const char* pointer, Json value) {
    Json file = good;
    file[Json::json_pointer(pointer)] = std::move(value);
    return json_complaint(file);
  };
  EXPECT_NE(with("/normalizer", {{"type", "NFKC"}}).find("NFKC"), std::string::npos);
  EXPECT_NE(with("/normalizer/normalizers/0/prepend", " ").find("Prepend"), std::string::npos);
  EXPECT_NE(with("/pre_tokenizer", {{"type", "ByteLevel"}}), "");
  EXPECT_NE(with("/decoder", {{"type", "WordPiece"}}).find("WordPiece"), std::string::npos);
  EXPECT_NE(with("/model/type", "Unigram").find("Unigram"), std::string::npos);
  EXPECT_NE(with("/model/vocab/a", 3), "");
  EXPECT_NE(with("/model/merges/0", "a <0x41>"), "");
  EXPECT_NE(with("/model/merges/1", good["model"]["merges"][0]), "");
  EXPECT_NE(with("/model/unk_token", 3), "");
  Json file = good;
  file["model"]["vocab"].erase("<0x41>");
  file["model"]["vocab"]["qq"] = 3 + 0x41;
  EXPECT_NE(json_complaint(file).find("<0x41>"), std::string::npos) << json_complaint(file);
}

TEST(SentencePiece, AModelOfAnotherKindIsRefusedByName) {
  const std::string good = sentencepiece_model_of(small_scored_vocabulary());
  const auto also = [&](std::string_view more) { return model_complaint(good + std::string(more)); };
  ASSERT_EQ(also(""), "");
  EXPECT_NE(also("\x12\x02\x18\x01").find("model_type = 1"), std::string::npos);
  EXPECT_NE(also(std::string_view("\x12\x03\x98\x02\x00", 5)).find("byte_fallback"), std::string::npos);
  EXPECT_NE(also("\x1a\x03\x12\x01x").find("precompiled_charsmap"), std::string::npos);
  EXPECT_NE(also("\x1a\x02\x20\x01").find("remove_extra_whitespaces"), std::string::npos);
  EXPECT_NE(also("\x12\x03\xc8\x02\x05").find("begin and end"), std::string::npos);
  EXPECT_NE(also("\x0a\x05\x0a\x01q\x18\x04").find("type 4"), std::string::npos);
}

// Whatever a damaged file holds, it is an Error that names it or a tokenizer that works.
TEST(SentencePiece, DamagedModelsNeverDoHarm) {
  const std::string good = sentencepiece_model_of(small_scored_vocabulary());
  int64_t refused = 0, read = 0;
  const auto attempt = [&](const std::string& file) {
    try {
      const auto tokenizer = read_sentencepiece_model(file, "damaged.model");
      ASSERT_EQ(tokenizer->decode(tokenizer->encode("once the \xE2\x82\xAC\xFF")),
                "once the \xE2\x82\xAC\xFF");
      ++read;
    } catch (const Error& error) {
      ASSERT_NE(std::string(error.what()).find("damaged.model"), std::string::npos) << error.what();
      ++refused;
    }
  };
  for (size_t length = 0; length < good.size(); ++length) attempt(good.substr(0, length));
  const Random random(5, stream_of("damaged files"));
  uint64_t draw = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string file = good;
    for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
      const size_t at = random.below(draw++, file.size());
      if (random.below(draw++, 2) == 0) {
        file[at] = static_cast<char>(random.bits(draw++));
      } else {
        file.erase(at, random.below(draw++, 9));
      }
    }
    attempt(file);
  }
  EXPECT_GT(refused, 4000);
  EXPECT_GT(read, 100) << "some damage is harmless, e.g. in a score";
}

TEST(SentencePiece, DamagedTokenizerJsonNeverDoesHarm) {
  const std::string good = small_sentencepiece()->to_json();
  const Random random(6, stream_of("damaged files"));
  uint64_t draw = 0;
  int64_t refused = 0, read = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string file = good;
    for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
      const size_t at = random.below(draw++, file.size());
      const size_t length = std::min<size_t>(random.below(draw++, 12), file.size() - at);
      switch (random.below(draw++, 4)) {
        case 0:
          file[at] = static_cast<char>(random.bits(draw++));
          break;
        case 1:
          file.erase(at, length);
          break;
        case 2:
          file.insert(at, file.substr(random.below(draw++, file.size()), length));
          break;
        default:
          file[at] = "0123456789{}[]\",:-<>"[random.below(draw++, 20)];
      }
    }
    try {
      const auto tokenizer = read_tokenizer_json(file, "damaged.json");
      ASSERT_EQ(tokenizer->decode(tokenizer->encode("once the \xE2\x82\xAC\xFF")),
                "once the \xE2\x82\xAC\xFF");
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(read, 10) << "some damage is harmless, e.g. in white space";
}

namespace {

class Llama : public testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("HARMONIC_DATA");
    if (data == nullptr) GTEST_SKIP() << "HARMONIC_DATA is not set";
    folder_ = std::filesystem::path(data) / "llama";
    if (!std::filesystem::exists(folder_ / "tokenizer.model"))
      GTEST_SKIP() << folder_ << " holds no tokenizer.model";
  }
  std::filesystem::path folder_;
};

}  // namespace

TEST_F(Llama, BothOfItsFilesGiveTheExpectedIds) {
  for (const char* file : {"tinyllama_tokenizer.json", "tokenizer.model"}) {
    const auto tokenizer = load_tokenizer(folder_ / file);
    const std::string texts = read_file(folder_ / "ggml-vocab-llama-spm.gguf.inp") + "\n";
    std::istringstream expected(read_file(folder_ / "ggml-vocab-llama-spm.gguf.out"));
    const std::string separator = "\n__ggml_vocab_test__\n";
    size_t count = 0;
    for (size_t begin = 0, end; (end = texts.find(separator, begin)) != texts.npos; ++count) {
      const std::string text = texts.substr(begin, end - begin);
      begin = end + separator.size();
      std::string line;
      ASSERT_TRUE(std::getline(expected, line)) << "fewer lines of ids than texts";
      std::istringstream numbers(line);
      std::vector<int32_t> ids;
      for (int32_t id; numbers >> id;) ids.push_back(id);
      EXPECT_EQ(tokenizer->encode(text), ids) << file << ", text " << count << ": " << text;
      EXPECT_EQ(tokenizer->decode(ids), text);
    }
    EXPECT_GE(count, 40u);
  }
}

TEST_F(Llama, BothOfItsFilesAreTheSameTokenizerAndStayIt) {
  const auto json = load_tokenizer(folder_ / "tinyllama_tokenizer.json");
  const auto model = load_tokenizer(folder_ / "tokenizer.model");
  EXPECT_EQ(json->hash(), model->hash());
  EXPECT_EQ(json->vocab_size(), 32000);
  EXPECT_EQ(json->bos(), 1);
  EXPECT_EQ(json->eot(), 2);
  EXPECT_EQ(read_tokenizer_json(model->to_json(), "t.json")->hash(), model->hash());
}

}  // namespace harmonic
