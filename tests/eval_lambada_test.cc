// LAMBADA: the last word with its space, in the tokens of the whole text.
#include "harmonic/eval/lambada.h"

#include "data_fixture.h"
#include "model_folder_fixture.h"

namespace harmonic {
namespace {

class Lambada : public DataTest {
 protected:
  std::vector<TaskExample> examples(const std::string& path, const Tokenizer& tokenizer) const {
    LambadaTask task({path}, {}, tokenizer);
    std::vector<TaskExample> examples;
    for (TaskExample example; task.next(example);) examples.push_back(example);
    return examples;
  }
  std::unique_ptr<Tokenizer> bytes_ = make_byte_tokenizer();
};

TEST_F(Lambada, AsksForWhatFollowsTheLastSpaceWithThatSpace) {
  const std::string path =
      file("test.jsonl",
           "{\"text\": \"one two three\"}\n{\"text\": \"a b \\n\"}\n{\"text\": \"x  y\"}\n"
           "{\"text\": \" z\"}\n");
  const auto all = examples(path, *bytes_);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"one two", " three"}, {"a", " b"}, {"x ", " y"}, {"", " z"}};
  ASSERT_EQ(all.size(), expected.size());
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].prefix, [&] {
      std::vector<int32_t> tokens = {bytes_->eot()};
      bytes_->encode(expected[i].first, tokens);
      return tokens;
    }());
    EXPECT_EQ(bytes_->decode(all[i].target), expected[i].second);
    EXPECT_EQ(all[i].group, 0u);
  }
}

void expect_tokens_of_the_whole(const std::vector<TaskExample>& examples,
                                const std::vector<std::string>& texts, const Tokenizer& tokenizer) {
  ASSERT_EQ(examples.size(), texts.size());
  for (size_t i = 0; i < examples.size(); ++i) {
    std::vector<int32_t> whole = {tokenizer.eot()};
    tokenizer.encode(texts[i], whole);
    std::vector<int32_t> parts = examples[i].prefix;
    parts.insert(parts.end(), examples[i].target.begin(), examples[i].target.end());
    ASSERT_EQ(parts, whole) << texts[i];
  }
}

TEST_F(Lambada, DividesTheTokensOfTheWholeText) {
  const std::vector<std::string> texts = {"if (the count is more", "return the  count",
                                          "the count's other",     "it is \n the count",
                                          "1990s, 1990s 1990",     "more \xc3\xa9t\xc3\xa9"};
  std::string joined;
  for (const std::string& text : texts) joined += text + '\0';
  const std::unique_ptr<Tokenizer> bpe = small_bpe();
  for (const Tokenizer* tokenizer : {bpe.get(), bytes_.get()})
    expect_tokens_of_the_whole(examples(file("texts", joined), *tokenizer), texts, *tokenizer);
}

TEST_F(Lambada, RefusesAnInputThatIsNone) {
  const auto message = [&](const std::string& path) { return error_of([&] { examples(path, *bytes_); }); };
  const std::string word = message(file("word.jsonl", "{\"text\": \"two words\"}\n{\"text\": \"word\"}\n"));
  EXPECT_NE(word.find("word.jsonl: document 2 has no last word"), std::string::npos) << word;
  const std::string field = message(file("field.jsonl", "{\"text\": \"two words\"}\n{\"txt\": \"a b\"}\n"));
  EXPECT_NE(field.find("field.jsonl: line 2: the object has no field \"text\""), std::string::npos) << field;
  const std::string malformed = message(file("malformed.jsonl", "{\"text\": \"two words"));
  EXPECT_NE(malformed.find("malformed.jsonl: line 1: not valid JSON"), std::string::npos) << malformed;
  const std::string empty = message(file("empty.jsonl", ""));
  EXPECT_NE(empty.find("empty.jsonl: holds no text"), std::string::npos) << empty;
}

TEST_F(Lambada, HasThe5153ExamplesOfTheTestSet) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (!data) GTEST_SKIP() << "HARMONIC_DATA is not set";
  const std::string path = std::string(data) + "/lambada/lambada_test.jsonl.xz";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  const std::vector<std::string> texts = read_documents({path});
  EXPECT_EQ(texts.size(), 5153u);
  const auto all = examples(path, *bytes_);
  expect_tokens_of_the_whole(all, texts, *bytes_);
  EXPECT_EQ(bytes_->decode(all[0].target), " signs");
  const std::string gpt2 = std::string(data) + "/gpt2";
  if (!std::filesystem::exists(gpt2 + "/encoder.json")) GTEST_SKIP() << gpt2 << " holds no encoder.json";
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(gpt2);
  expect_tokens_of_the_whole(examples(path, *tokenizer), texts, *tokenizer);
}

}  // namespace
}  // namespace harmonic
