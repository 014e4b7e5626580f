// GPT-2's vocabulary: the ids that everyone else gets.
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>

#include "harmonic/base/files.h"
#include "harmonic/base/random.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {
namespace {

class Gpt2 : public testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("HARMONIC_DATA");
    if (data == nullptr) GTEST_SKIP() << "HARMONIC_DATA is not set";
    folder_ = std::filesystem::path(data) / "gpt2";
    if (!std::filesystem::exists(folder_ / "encoder.json"))
      GTEST_SKIP() << folder_ << " holds no encoder.json";
    tokenizer_ = load_tokenizer(folder_);
  }
  std::filesystem::path folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

std::string random_bytes(uint64_t seed, size_t size) {
  const Random random(seed, stream_of("tokenizer test"));
  std::string text;
  for (size_t i = 0; i < size; ++i) text += static_cast<char>(random.bits(i));
  return text;
}

}  // namespace

TEST_F(Gpt2, TheTestStringsGiveTheExpectedIds) {
  const std::string texts = read_file(folder_ / "ggml-vocab-gpt-2.gguf.inp") + "\n";
  std::istringstream expected(read_file(folder_ / "ggml-vocab-gpt-2.gguf.out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  size_t count = 0;
  for (size_t begin = 0; begin < texts.size();) {
    const size_t end = texts.find(separator, begin);
    if (end == texts.npos) break;
    const std::string text = texts.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    ASSERT_TRUE(std::getline(expected, line)) << "fewer lines of ids than texts";
    std::istringstream numbers(line);
    std::vector<int32_t> ids;
    for (int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer_->encode(text), ids) << "text " << count << ": " << text;
    EXPECT_EQ(tokenizer_->decode(ids), text);
    ++count;
  }
  std::string line;
  EXPECT_FALSE(std::getline(expected, line) && !line.empty()) << "more lines of ids than texts";
  EXPECT_GE(count, 40u);
}

TEST_F(Gpt2, TheVocabularyEndsWithTheEndOfText) {
  EXPECT_EQ(tokenizer_->vocab_size(), 50257);
  EXPECT_EQ(tokenizer_->eot(), 50256);
  EXPECT_EQ(tokenizer_->bytes_of(50256), "");
  EXPECT_EQ(tokenizer_->encode("<|endoftext|>").size(), 7u) << "a special token written out is text";
}

TEST_F(Gpt2, AnyBytesSurvive) {
  EXPECT_EQ(tokenizer_->encode("").size(), 0u);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text) << byte;
  }
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = random_bytes(seed, seed * 7 % 300);
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text) << "seed " << seed;
  }
}

TEST_F(Gpt2, SavedAsTokenizerJsonItIsTheSameTokenizer) {
  const auto path = std::filesystem::path(testing::TempDir()) / "gpt2_tokenizer.json";
  write_file(path, tokenizer_->to_json());
  const auto loaded = load_tokenizer(path);
  EXPECT_EQ(loaded->hash(), tokenizer_->hash());
  EXPECT_EQ(loaded->to_json(), tokenizer_->to_json());
  EXPECT_EQ(loaded->eot(), tokenizer_->eot());
  EXPECT_EQ(loaded->encode("Hello, world! नमस्ते"), tokenizer_->encode("Hello, world! नमस्ते"));
  std::filesystem::remove(path);
}

}  // namespace harmonic
