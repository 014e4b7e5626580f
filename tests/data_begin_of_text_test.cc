// A vocabulary whose texts begin with another token than the one that ends them.
#include <gtest/gtest.h>

#include "harmonic/data/batch.h"
#include "harmonic/data/corpus_preparation.h"
#include "harmonic/data/evaluation_windows.h"
#include "tests/data_fixture.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

constexpr int32_t kBos = 1, kEot = 2;

class BeginOfText : public DataTest {
 protected:
  std::vector<int32_t> tokens_of(size_t document) const { return tokenizer_->encode(documents_[document]); }

  std::unique_ptr<Tokenizer> tokenizer_ = small_sentencepiece();
  std::vector<std::string> documents_ = {"once the ing", " a", "the\n\ncon"};
};

TEST_F(BeginOfText, LeadsEveryDocumentAsInputAndIsNoTarget) {
  const TokenCorpus corpus = TokenCorpus::from_documents(documents_, *tokenizer_);
  std::vector<int32_t> inputs, targets;
  for (size_t d = 0; d < documents_.size(); ++d) {
    const std::vector<int32_t> tokens = tokens_of(d);
    inputs.push_back(kBos);
    inputs.insert(inputs.end(), tokens.begin(), tokens.end());
    targets.insert(targets.end(), tokens.begin(), tokens.end());
    targets.push_back(kEot);
  }
  for (const bool cut : {true, false}) {
    Batch batch;
    batch.clear();
    batch.add_sequence();
    batch.append(corpus, 0, corpus.targets(), false, cut);
    EXPECT_EQ(batch.tokens, inputs);
    EXPECT_EQ(batch.targets, targets);
    EXPECT_EQ(batch.segments.size(), cut ? documents_.size() : 1);
  }
  // However the stream is cut.
  for (const int64_t length : {1, 2, 5}) {
    for (const EvaluationState state : {EvaluationState::cold, EvaluationState::carry}) {
      EvaluationWindows windows(corpus, length, state, 1);
      std::vector<int32_t> seen, wanted;
      while (const Batch* batch = windows.next()) {
        seen.insert(seen.end(), batch->tokens.begin(), batch->tokens.end());
        wanted.insert(wanted.end(), batch->targets.begin(), batch->targets.end());
      }
      EXPECT_EQ(seen, inputs) << length;
      EXPECT_EQ(wanted, targets) << length;
    }
  }
}

TEST_F(BeginOfText, StandsInTheShardsHeader) {
  const TokenCorpus corpus = TokenCorpus::from_documents(documents_, *tokenizer_);
  EXPECT_EQ(corpus.identity().bos, kBos);
  EXPECT_EQ(corpus.identity().eot, kEot);
  TokenShardBuilder builder(identity_of(*tokenizer_)), plain({300, kEot, std::string(64, 'a')});
  builder.add(tokens_of(0), 12);
  plain.add(tokens_of(0), 12);
  EXPECT_EQ(builder.image()[8], 2) << "the format's version";
  EXPECT_EQ(builder.image()[104], kBos);
  EXPECT_EQ(plain.image()[8], 1);
  EXPECT_EQ(plain.image()[104], 0);
  const TokenShard again = TokenShard::from_image(builder.image(), "image");
  EXPECT_EQ(again.identity(), identity_of(*tokenizer_));
  EXPECT_EQ(TokenShard::from_image(plain.image(), "image").identity().bos, kEot);
}

TEST_F(BeginOfText, ALongDocumentIsTokenisedAsOneText) {
  std::string text;
  while (text.size() < 3'000'000) text += "once the  ing a\n\n";
  const std::string path = file("long.txt", text);
  ThreadPool pool(2);
  const TokenCorpus corpus = corpus_in_memory({path}, *tokenizer_, pool);
  const std::vector<int32_t> expected = tokenizer_->encode(text);
  std::vector<int32_t> found(expected.size());
  ASSERT_EQ(corpus.targets(), static_cast<int64_t>(expected.size()) + 1);
  corpus.read(1, static_cast<int64_t>(found.size()), found.data());
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace harmonic
