#include <gtest/gtest.h>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

TEST(ByteTokenizer, ATokenIsTheValueOfItsByte) {
  const auto tokenizer = load_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_EQ(tokenizer->eot(), 0);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  const std::vector<int32_t> tokens = tokenizer->encode(all);
  ASSERT_EQ(tokens.size(), 256u);
  for (int32_t byte = 0; byte < 256; ++byte) EXPECT_EQ(tokens[static_cast<size_t>(byte)], byte);
  EXPECT_EQ(tokenizer->decode(tokens), all);
}

TEST(ByteTokenizer, RefusesAnIdOutsideItsVocabulary) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_THROW(tokenizer->bytes_of(-1), Error);
  EXPECT_THROW(tokenizer->bytes_of(256), Error);
}

TEST(ByteTokenizer, IsRecognisedInItsOwnTokenizerJson) {
  const auto path = std::filesystem::path(testing::TempDir()) / "bytes_tokenizer.json";
  const auto tokenizer = make_byte_tokenizer();
  write_file(path, tokenizer->to_json());
  const auto loaded = load_tokenizer(path);
  EXPECT_EQ(loaded->hash(), tokenizer->hash());
  EXPECT_EQ(loaded->eot(), 0);
  EXPECT_EQ(loaded->bytes_of(0), std::string_view("\0", 1));
  std::filesystem::remove(path);
}

TEST(LoadTokenizer, NamesWhatIsMissing) {
  try {
    load_tokenizer("no/such/folder");
    FAIL() << "a missing tokenizer must be an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no/such/folder"), std::string::npos) << error.what();
  }
}

}  // namespace harmonic
