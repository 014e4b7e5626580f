#include "harmonic/runtime/stream_encoder.h"

#include <gtest/gtest.h>

#include "harmonic/base/random.h"
#include "tests/model_folder_fixture.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

constexpr size_t kLongest = StreamEncoder::kLongestPiece;

// The tokens of a text handed over in pieces of 1 to `most` bytes.
std::vector<int32_t> in_pieces(const Tokenizer& tokenizer, std::string_view text, size_t most,
                               uint64_t seed) {
  StreamEncoder encoder(tokenizer);
  const Random random(seed, stream_of("pieces"));
  std::vector<int32_t> tokens;
  for (uint64_t i = 0; !text.empty(); ++i) {
    const size_t size = std::min<size_t>(text.size(), 1 + random.below(i, most));
    encoder.push(text.substr(0, size), tokens);
    text.remove_prefix(size);
  }
  encoder.finish(tokens);
  return tokens;
}

std::string mixed_text() {
  std::string text;
  for (int i = 0; i < 200; ++i)
    text +=
        "if (the count) {\n    return  the\tcount;\r\n  }\n\n\n \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e it's "
        "we'll \xff\xc3 99 ";
  return text;
}

TEST(StreamEncoder, GivesTheTokensOfTheWholeHoweverThePiecesFall) {
  const auto bpe = small_bpe(), bytes = make_byte_tokenizer(), pieces = small_sentencepiece();
  const std::string text = mixed_text();
  for (const Tokenizer* tokenizer : {bpe.get(), bytes.get(), pieces.get()}) {
    const std::vector<int32_t> whole = tokenizer->encode(text);
    for (const size_t most : {1, 2, 3, 7, 64, 4096, 1 << 20})
      EXPECT_EQ(in_pieces(*tokenizer, text, most, most), whole) << "pieces of up to " << most << " bytes";
  }
}

// What has no space between visible ASCII characters for far more than kLongestPiece bytes.
TEST(StreamEncoder, TextWithoutSpacesHasTheTokensOfTheWhole) {
  const auto bpe = small_bpe();
  std::string data = "{", chinese, signs;
  while (data.size() < 3 * kLongest) data += "\"the\":[1990,-1.5e7],\"count's\":{\"return\":null},";
  while (chinese.size() < 3 * kLongest)
    chinese += "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe3\x80\x82\n\xe3\x80\x80";
  while (signs.size() < 3 * kLongest) signs += "the\xff\xc3" + std::to_string(signs.size()) + "''s\xe3\x80";
  for (const std::string& text : {data, chinese, signs}) {
    const std::vector<int32_t> whole = bpe->encode(text);
    for (const size_t most : {300, 5000, 70'000, 1 << 20})
      EXPECT_EQ(in_pieces(*bpe, text, most, most), whole) << text.substr(0, 10) << ", up to " << most;
  }
}

TEST(StreamEncoder, TokensReachOverLineBreaksAsTheyDoInTheWhole) {
  const auto bpe = small_bpe();
  const std::vector<int32_t> whole = bpe->encode("a {\n    return\n\n\n  b");
  const bool any = std::any_of(whole.begin(), whole.end(), [&](int32_t token) {
    const std::string_view bytes = bpe->bytes_of(token);
    return bytes.size() > 1 && bytes.front() == '\n';
  });
  ASSERT_TRUE(any) << "the vocabulary of this test has no such token";
  EXPECT_EQ(in_pieces(*bpe, "a {\n    return\n\n\n  b", 1, 1), whole);
}

TEST(StreamEncoder, ARunOfMoreThan64KBIsCutWhereTheTextAloneDecides) {
  const auto bpe = small_bpe();
  for (const size_t length : {kLongest - 1, kLongest, kLongest + 1, 2 * kLongest, 2 * kLongest + 77}) {
    for (const std::string& before : {std::string(), std::string("the count "), std::string(1000, ' ')}) {
      for (const char* after : {"", " ", "\n", " the count\n", "return"}) {
        const std::string text = before + std::string(length, 'e') + after;
        const std::vector<int32_t> expected = in_pieces(*bpe, text, text.size(), 0);
        EXPECT_EQ(bpe->decode(expected), text);
        for (const size_t most : {1000, 30'000, 70'000})
          ASSERT_EQ(in_pieces(*bpe, text, most, length), expected) << length << " and \"" << after << '"';
        // The blank before it, and letters after it, are of the same piece.
        const size_t piece = !before.empty() + length + (after == std::string("return") ? 6 : 0);
        if (piece <= kLongest) {
          EXPECT_EQ(expected, bpe->encode(text)) << length << " and \"" << after << '"';
        }
        if (piece == text.size()) {
          std::vector<int32_t> parts;
          for (size_t begin = 0; begin < piece; begin += kLongest)
            bpe->encode(std::string_view(text).substr(begin, kLongest), parts);
          EXPECT_EQ(expected, parts);
        }
      }
    }
  }
}

TEST(StreamEncoder, TokensComeAsSoonAsNothingCanChangeThem) {
  const auto bytes = make_byte_tokenizer();
  StreamEncoder encoder(*bytes);
  std::vector<int32_t> tokens;
  encoder.push("a\n", tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{'a', '\n'}));
  const auto bpe = small_bpe();
  StreamEncoder slower(*bpe);
  tokens.clear();
  slower.push("the", tokens);
  EXPECT_TRUE(tokens.empty()) << "it may go on as \"there\"";
  slower.push(" ", tokens);
  EXPECT_EQ(bpe->decode(tokens), "the");
}

TEST(StreamEncoder, TheNextTextStartsAfresh) {
  const auto bpe = small_bpe();
  StreamEncoder encoder(*bpe);
  std::vector<int32_t> tokens;
  encoder.push("the", tokens);
  encoder.finish(tokens);
  EXPECT_EQ(tokens, bpe->encode("the"));
  tokens.clear();
  encoder.push(" count", tokens);
  encoder.finish(tokens);
  EXPECT_EQ(tokens, bpe->encode(" count"));
  tokens.clear();
  encoder.finish(tokens);
  EXPECT_TRUE(tokens.empty());
}

TEST(StreamEncoder, EveryTextBeginsAsOne) {
  const auto pieces = small_sentencepiece();
  StreamEncoder encoder(*pieces);
  for (int document = 0; document < 2; ++document) {
    std::vector<int32_t> tokens;
    encoder.push("the", tokens);
    encoder.finish(tokens);
    EXPECT_EQ(tokens, pieces->encode("the"));
  }
}

}  // namespace
}  // namespace harmonic
