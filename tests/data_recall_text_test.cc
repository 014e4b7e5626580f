// Texts that ask for what they said: a function of the seed, every answer true, every distance exact.
#include "harmonic/data/recall_text.h"

#include <map>
#include <set>

#include "data_fixture.h"
#include "harmonic/base/utf8.h"

namespace harmonic {
namespace {

constexpr int64_t kDigits = RecallText::kDigits;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// "b=71" at `at`.
bool pair_at(const std::string& text, size_t at) {
  return at + 2 + kDigits <= text.size() && text[at] >= 'a' && text[at] <= 'z' && text[at + 1] == '=' &&
         std::all_of(text.begin() + static_cast<int64_t>(at) + 2,
                     text.begin() + static_cast<int64_t>(at) + 2 + kDigits, is_digit);
}

TEST(RecallText, IsAFunctionOfSeedAndIndex) {
  const RecallText text, same;
  std::set<std::string> all;
  for (const uint64_t seed : {1, 2}) {
    for (const uint64_t index : {0, 1, 2}) {
      EXPECT_EQ(text.document(seed, index, 4, 300), same.document(seed, index, 4, 300));
      EXPECT_EQ(text.question(seed, index, 4, 300).prefix, same.question(seed, index, 4, 300).prefix);
      all.insert(text.document(seed, index, 4, 300).substr(0, 60));
      all.insert(text.question(seed, index, 4, 300).prefix.substr(0, 60));
    }
  }
  EXPECT_EQ(all.size(), 12u);  // a question is not the start of a document of the same seed
}

TEST(RecallText, IsTheSameOnEveryMachine) {
  EXPECT_EQ(RecallText().document(1, 0, 2, 60),
            "a=63 b=70\nf\n?a=63 ?b=70\na=93 b=72\nbe\n?b=72 ?a=93\ntolu tolu g");
}

TEST(RecallText, AnswersEveryQuestionOfADocumentWithTheValueBoundLast) {
  const RecallText text;
  for (const int64_t pairs : {1, 4, 26}) {
    for (uint64_t index = 0; index < 20; ++index) {
      const std::string document = text.document(7, index, pairs, 2000);
      EXPECT_EQ(document.size(), 2000u);
      EXPECT_EQ(document.find('\0'), std::string::npos);
      std::map<char, std::string> bound;
      int64_t bindings = 0, questions = 0;
      for (size_t i = 0; i < document.size(); ++i) {
        if (!pair_at(document, i)) continue;
        const std::string value = document.substr(i + 2, kDigits);
        if (i > 0 && document[i - 1] == '?') {
          EXPECT_EQ(bound.at(document[i]), value);
          ++questions;
        } else {
          bound[document[i]] = value;
          ++bindings;
        }
      }
      EXPECT_EQ(questions, bindings);
      EXPECT_EQ(questions % pairs, 0);
      EXPECT_GE(questions, pairs);
    }
  }
}

TEST(RecallText, AsksAtExactlyTheDistance) {
  const RecallText text;
  std::set<size_t> asked;
  for (const int64_t pairs : {1, 4}) {
    for (const int64_t distance : {24, 64, 1000}) {
      for (uint64_t index = 0; index < 20; ++index) {
        const RecallQuestion question = text.question(1, index, pairs, distance);
        const std::string& prefix = question.prefix;
        const std::string key = prefix.substr(prefix.size() - 2);
        EXPECT_EQ(prefix.substr(prefix.size() - 4), "\n?" + key);
        ASSERT_EQ(question.value.size(), static_cast<size_t>(kDigits));
        const size_t at = prefix.find(key);
        EXPECT_EQ(prefix.substr(at, 2 + kDigits), key + question.value);
        EXPECT_EQ(static_cast<int64_t>(prefix.size() - (at + 2 + kDigits)), distance);
        EXPECT_EQ(std::count(prefix.begin(), prefix.end(), '='), pairs + 1);
        if (pairs == 4) asked.insert(at);
      }
    }
  }
  EXPECT_EQ(asked.size(), 4u);  // any pair may be asked for
}

TEST(RecallText, BindsDifferentValuesToDifferentKeys) {
  const RecallText text;
  std::set<char> keys;
  std::set<std::string> values;
  const std::string prefix = text.question(1, 0, 26, 500).prefix;
  for (size_t i = 0; i < 26 * (kDigits + 3); i += kDigits + 3) {
    ASSERT_TRUE(pair_at(prefix, i));
    keys.insert(prefix[i]);
    values.insert(prefix.substr(i + 2, kDigits));
  }
  EXPECT_EQ(keys.size(), 26u);
  EXPECT_EQ(values.size(), 26u);
}

TEST(RecallText, CutsItsFillerFromATextWithoutWhatWouldBindOrEndADocument) {
  std::string filler;
  for (int i = 0; i < 40; ++i) filler += std::string("a=12 \0?b=34 \xc3\xa9\xe2\x82\xac", 17);
  const RecallText text(filler);
  for (uint64_t index = 0; index < 30; ++index) {
    for (const int64_t distance : {40, 300, 5000}) {  // 5000: longer than the text
      const std::string prefix = text.question(1, index, 1, distance).prefix;
      EXPECT_EQ(std::count(prefix.begin(), prefix.end(), '='), 2);
      EXPECT_EQ(prefix.find('\0'), std::string::npos);
      EXPECT_NE(prefix.find("a-12 "), std::string::npos);
      EXPECT_TRUE(distance > 300 || is_utf8(prefix));  // where it goes round, it may cut a character
    }
    EXPECT_EQ(text.document(1, index, 2, 1000).size(), 1000u);
  }
}

TEST(RecallText, RefusesWhatHasNoRoomForItsPairs) {
  const RecallText text;
  const int64_t shortest = 6 + 3 * (kDigits + 3);
  EXPECT_EQ(static_cast<int64_t>(text.question(1, 0, 4, shortest).value.size()), kDigits);
  EXPECT_EQ(error_of([&] { text.question(1, 0, 4, shortest - 1); }),
            fmt::format("a distance of {} bytes has no room for 4 pairs; expected at least {}", shortest - 1,
                        shortest));
  const int64_t least = 4 * (2 * kDigits + 7) + 2;
  EXPECT_EQ(static_cast<int64_t>(text.document(1, 0, 4, least).size()), least);
  const std::string message = error_of([&] { text.document(1, 0, 4, least - 1); });
  EXPECT_NE(message.find(fmt::format("expected at least {}", least)), std::string::npos) << message;
  for (const int64_t pairs : {0, 27})
    EXPECT_NE(error_of([&] { text.question(1, 0, pairs, 1000); }).find("expected 1 to 26"),
              std::string::npos);
}

}  // namespace
}  // namespace harmonic
