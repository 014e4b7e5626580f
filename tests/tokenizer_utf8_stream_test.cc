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

TEST(Utf8Stream, HoldsBackAtMostThreeBytes) {
  Utf8Stream stream(Utf8Stream::Invalid::keep);
  size_t pushed = 0, released = 0;
  const Random random(1, 1);
  for (uint64_t i = 0; i < 10000; ++i) {
    const char byte = static_cast<char>(random.bits(i));
    ++pushed;
    released += stream.push({&byte, 1}).size();
    ASSERT_LE(pushed - released, 3u);
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
    for (const auto invalid : {Utf8Stream::Invalid::keep, Utf8Stream::Invalid::replace}) {
      Utf8Stream whole(invalid), split(invalid);
      std::string expected = whole.push(bytes);
      expected += whole.flush();
      std::string found;
      for (char byte : bytes) found += split.push({&byte, 1});
      found += split.flush();
      ASSERT_EQ(found, expected);
      if (invalid == Utf8Stream::Invalid::keep) {
        ASSERT_EQ(found, bytes);
      }
    }
  }
}

}  // namespace harmonic
