#include "harmonic/tokenizer/pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harmonic/base/random.h"
#include "harmonic/base/utf8.h"
#include "harmonic/tokenizer/unicode_classes.h"

namespace harmonic {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text, Splitting splitting = Splitting::gpt2) {
  Pieces pieces;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = piece_end(text, begin, splitting);
    EXPECT_GT(end, begin);
    EXPECT_LE(end, text.size());
    pieces.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

// Text of what the rule treats apart, in any order.
std::string random_text(uint64_t seed) {
  static const std::string parts[] = {" ",      "  ",     "\n",       "\t",   "a",   "Word", "é",  "日",
                                      "7",      "\u00b2", "'s",       "'",    "'l",  "!",    "--", "\u3000",
                                      "\u00a0", "\x80",   "\xe6\x97", "🙂", "'re", "\r\n"};
  const Random random(seed, stream_of("pretokenizer test"));
  std::string text;
  const uint64_t count = random.below(0, 40);
  for (uint64_t i = 1; i <= count; ++i) text += parts[random.below(i, std::size(parts))];
  return text;
}

}  // namespace

TEST(Pretokenizer, OneBlankBelongsToTheWordNumberOrSignsAfterIt) {
  EXPECT_EQ(split("Hello world 42 !? x"), (Pieces{"Hello", " world", " 42", " !?", " x"}));
  EXPECT_EQ(split("ab12cd--ef"), (Pieces{"ab", "12", "cd", "--", "ef"}));
}

TEST(Pretokenizer, ContractionsAreCutOffOnlyInLowerCase) {
  EXPECT_EQ(
      split("I'll you've it's he'd I'm we're can't"),
      (Pieces{"I", "'ll", " you", "'ve", " it", "'s", " he", "'d", " I", "'m", " we", "'re", " can", "'t"}));
  EXPECT_EQ(split("IT'S a'l 'tis"), (Pieces{"IT", "'", "S", " a", "'", "l", " '", "tis"}));
  EXPECT_EQ(split("!'s"), (Pieces{"!'", "s"})) << "signs before an apostrophe take it with them";
  EXPECT_EQ(split("'"), (Pieces{"'"}));
}

TEST(Pretokenizer, TheLastSpaceOfARunLeadsWhatFollows) {
  EXPECT_EQ(split("a   b"), (Pieces{"a", "  ", " b"}));
  EXPECT_EQ(split("a \n\n b"), (Pieces{"a", " \n\n", " b"}));
  EXPECT_EQ(split("a\n\nb"), (Pieces{"a", "\n", "\n", "b"})) << "only a blank can lead a word";
  EXPECT_EQ(split("a  "), (Pieces{"a", "  "})) << "at the end all belong together";
  EXPECT_EQ(split(" "), (Pieces{" "}));
  EXPECT_EQ(split("\u3000\u3000x"), (Pieces{"\u3000", "\u3000", "x"})) << "spaces beyond ASCII count too";
}

TEST(Pretokenizer, KnowsLettersAndNumbersOfAllScripts) {
  EXPECT_EQ(split("naïve Български 日本語x"), (Pieces{"naïve", " Български", " 日本語x"}));
  EXPECT_EQ(split("x²½Ⅷ٣"), (Pieces{"x", "²½Ⅷ٣"}));
  EXPECT_EQ(split("नमस्ते"), (Pieces{"नमस", "्", "त", "े"})) << "marks are neither letters nor numbers";
  EXPECT_EQ(split("𝒳🙂"), (Pieces{"𝒳", "🙂"}));
}

TEST(Pretokenizer, BytesThatAreNoUtf8CountAsSigns) {
  EXPECT_EQ(split("a\xff\xfe!b"), (Pieces{"a", "\xff\xfe!", "b"}));
  EXPECT_EQ(split("a\xe6\x97"), (Pieces{"a", "\xe6\x97"})) << "a character cut off by the end";
  EXPECT_EQ(split("\xc0\xa0x"), (Pieces{"\xc0\xa0", "x"})) << "an overlong form is no blank";
}

TEST(Pretokenizer, SingleDigitsAreCutOutAndEndWhatIsBeforeThem) {
  const auto digits = [](std::string_view text) { return split(text, Splitting::single_digits); };
  EXPECT_EQ(digits("in 1984!"), (Pieces{"in", " ", "1", "9", "8", "4", "!"}));
  EXPECT_EQ(digits("a  7 b"), (Pieces{"a", "  ", "7", " b"})) << "no space is kept back for a digit";
  EXPECT_EQ(digits("x²½Ⅷ٣"), (Pieces{"x", "²", "½", "Ⅷ", "٣"}));
  EXPECT_EQ(digits("it's 3's"), (Pieces{"it", "'s", " ", "3", "'s"}));
  EXPECT_EQ(digits("no digit's here"), split("no digit's here"));
}

// The rule by its definition: the text between digits, each part by itself.
TEST(Pretokenizer, SingleDigitsAreGpt2sRuleBetweenTheDigits) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const std::string text = random_text(seed);
    Pieces expected;
    std::string part;
    const auto finish = [&] {
      for (std::string& piece : split(part)) expected.push_back(std::move(piece));
      part.clear();
    };
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = read_utf8(std::string_view(text).substr(at));
      const std::string character = text.substr(at, static_cast<size_t>(step.length));
      if (step.kind == Utf8Step::Kind::character && char_class(step.code) == CharClass::number) {
        finish();
        expected.push_back(character);
      } else {
        part += character;
      }
      at += character.size();
    }
    finish();
    ASSERT_EQ(split(text, Splitting::single_digits), expected) << "seed " << seed;
  }
}

class EitherRule : public testing::TestWithParam<Splitting> {};
INSTANTIATE_TEST_SUITE_P(Splittings, EitherRule, testing::Values(Splitting::gpt2, Splitting::single_digits));

TEST_P(EitherRule, EachSideOfABoundaryIsSplitAsInTheWhole) {
  int64_t boundaries = 0;
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const std::string text = random_text(seed);
    const Pieces whole = split(text, GetParam());
    for (size_t from = 0; from < text.size(); ++from) {
      const size_t cut = piece_boundary(text, from);
      ASSERT_GE(cut, from);
      ASSERT_LE(cut, text.size());
      if (cut == text.size()) continue;
      ++boundaries;
      Pieces parts = split(text.substr(0, cut), GetParam());
      for (std::string& piece : split(text.substr(cut), GetParam())) parts.push_back(std::move(piece));
      ASSERT_EQ(parts, whole) << "seed " << seed << ", cut at " << cut;
    }
  }
  EXPECT_GT(boundaries, 1000);
}

TEST_P(EitherRule, ASettledPieceIsThatOfTheWholeHoweverTheTextGoesOn) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const std::string text = random_text(seed);
    if (text.empty()) continue;
    const size_t end = piece_end(text, 0, GetParam());
    for (size_t known = 0; known <= text.size(); ++known) {
      const size_t settled = settled_piece_end(text.substr(0, known), GetParam());
      ASSERT_TRUE(settled == 0 || settled == end) << "seed " << seed << ", " << known << " bytes";
      ASSERT_TRUE(settled != 0 || known < end + 8) << "seed " << seed << ", " << known << " bytes";
    }
  }
}

TEST(UnicodeClasses, AreThoseOfTheStandard) {
  EXPECT_EQ(char_class('a'), CharClass::letter);
  EXPECT_EQ(char_class(0x10FFFF), CharClass::other);
  EXPECT_EQ(char_class(0xFFFFFFFF), CharClass::other);
  EXPECT_EQ(char_class(0x200B), CharClass::other) << "the zero-width space is no White_Space";
  EXPECT_EQ(char_class(0x85), CharClass::space);
  EXPECT_EQ(char_class(0x1C), CharClass::other);
  EXPECT_EQ(char_class(0x2028), CharClass::space);
  EXPECT_EQ(char_class(0x3134A), CharClass::letter);
  EXPECT_EQ(char_class(0x1D7FF), CharClass::number);
}

}  // namespace harmonic
