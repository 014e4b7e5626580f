// Recall by distance: groups of examples that depend on nothing else that is asked for.
#include "harmonic/eval/recall.h"

#include "data_fixture.h"
#include "model_folder_fixture.h"

namespace harmonic {
namespace {

std::vector<TaskExample> examples(RecallTask task) {
  std::vector<TaskExample> examples;
  for (TaskExample example; task.next(example);) examples.push_back(example);
  EXPECT_EQ(static_cast<int64_t>(examples.size()), task.examples());
  return examples;
}

class Recall : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> bytes_ = make_byte_tokenizer();
  RecallOptions options_ = {.pairs = {1, 3}, .distances = {64, 300}, .examples = 5, .seed = 4};
};

TEST_F(Recall, HasAGroupForEachNumberOfPairsAndEachDistance) {
  const RecallTask task(options_, RecallText(), *bytes_);
  const std::vector<TaskGroup> groups = task.groups();
  ASSERT_EQ(groups.size(), 4u);
  EXPECT_EQ(groups[0].name, "passkey at 64");
  EXPECT_EQ(groups[1].name, "passkey at 300");
  EXPECT_EQ(groups[2].name, "3 pairs at 64");
  EXPECT_EQ(groups[3].name, "3 pairs at 300");
  EXPECT_EQ(groups[0].chance, 0.01);
  EXPECT_EQ(groups[3].chance, 1.0 / 3);
  const auto all = examples(task);
  ASSERT_EQ(all.size(), 20u);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].group, i / 5);
}

TEST_F(Recall, AsksInTheTokensOfTheTextAfterItsEnd) {
  const std::unique_ptr<Tokenizer> bpe = small_bpe();
  for (const Tokenizer* tokenizer : {bpe.get(), bytes_.get()}) {
    const RecallText text;
    const auto all = examples(RecallTask(options_, text, *tokenizer));
    for (size_t i = 0; i < all.size(); ++i) {
      const RecallQuestion question = text.question(4, i % 5, i < 10 ? 1 : 3, i % 10 < 5 ? 64 : 300);
      std::vector<int32_t> whole = {tokenizer->eot()};
      tokenizer->encode(question.prefix + question.value, whole);
      std::vector<int32_t> parts = all[i].prefix;
      parts.insert(parts.end(), all[i].target.begin(), all[i].target.end());
      EXPECT_EQ(parts, whole);
      EXPECT_EQ(tokenizer->decode(all[i].target), question.value);
    }
  }
}

TEST_F(Recall, HasTheSameExamplesAtADistanceWhateverElseIsAskedFor) {
  const auto all = examples(RecallTask(options_, RecallText(), *bytes_));
  options_.pairs = {3};
  options_.distances = {300};
  const auto alone = examples(RecallTask(options_, RecallText(), *bytes_));
  options_.examples = 2;
  const auto fewer = examples(RecallTask(options_, RecallText(), *bytes_));
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(alone[i].prefix, all[15 + i].prefix);
  for (size_t i = 0; i < fewer.size(); ++i) EXPECT_EQ(fewer[i].prefix, alone[i].prefix);
  options_.seed = 5;
  EXPECT_NE(examples(RecallTask(options_, RecallText(), *bytes_))[0].prefix, alone[0].prefix);
}

TEST_F(Recall, RefusesADistanceWithoutRoomBeforeAnyExample) {
  options_.distances = {1000, 10};
  const std::string message = error_of([&] { RecallTask(options_, RecallText(), *bytes_); });
  EXPECT_NE(message.find("a distance of 10 bytes has no room for 3 pairs"), std::string::npos) << message;
}

}  // namespace
}  // namespace harmonic
