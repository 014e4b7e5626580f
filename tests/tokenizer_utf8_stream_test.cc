#include "harmonic/tokenizer/utf8_stream.h"

#include <gtest/gtest.h>

#include "harmonic/base/random.h"

namespace harmonic {

TEST(Utf8Stream, ReleasesACharacterWithItsLastByte) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xf0"), "a");
  EXPECT_EQ(stream.push("\x9f\x99"), "");
  EXPECT_EQ(stream.push("\x82z"), "🙂z");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Utf8Stream, HoldsBackTheBeginningOfACharacterAlone) {
  Utf8Stream stream;
  const Random random(1, 1);
  for (uint64_t i = 0; i < 10000; ++i) {
    const char byte = static_cast<char>(random.bits(i));
    stream.push({&byte, 1});
    ASSERT_LE(stream.held().size(), 3u);
    if (!stream.held().empty()) {
      ASSERT_EQ(read_utf8(stream.held()).kind, Utf8Step::Kind::incomplete);
    }
  }
}

TEST(Utf8Stream, ReplacesEachPartThatIsNoCharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xff"), "a\uFFFD");
  EXPECT_EQ(stream.push("\xe6\x97"), "");
  EXPECT_EQ(stream.push("x"), "\uFFFDx")
      << "one replacement for the cut-off character, as the standard advises";
  EXPECT_EQ(stream.push("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD") << "a surrogate";
  EXPECT_EQ(stream.push("\xf0\x9f"), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Utf8Stream, AnySplitOfTheBytesGivesTheSameText) {
  const Random random(2, 2);
  for (uint64_t round = 0; round < 300; ++round) {
    std::string bytes;
    for (uint64_t i = 0; i < 60; ++i)
      bytes += random.below(round * 1000 + i, 3) == 0
                   ? std::string("日é🙂").substr(random.below(i + round, 9), 4)
                   : std::string(1, static_cast<char>(random.bits(round * 77 + i)));
    Utf8Stream whole, split;
    std::string expected = whole.push(bytes);
    expected += whole.flush();
    ASSERT_TRUE(is_utf8(expected));
    std::string found;
    for (char byte : bytes) {
      found += split.push({&byte, 1});
      Utf8Stream other;  // that goes on where this one stands
      found += other.push(split.held());
      split = other;
    }
    found += split.flush();
    ASSERT_EQ(found, expected);
  }
}

}  // namespace harmonic
