#include "harmonic/runtime/batch_generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

std::vector<std::string> texts_of(const ModelConfig& config, BatchGeneratorOptions options, int threads,
                                  const std::string& prompt = "") {
  Model model(config, cpu_backend(), false);
  initialise_for_test(model, 4);
  ThreadPool pool(threads);
  Inference inference(model, pool);
  std::vector<std::string> texts;
  generate_texts(inference, *make_byte_tokenizer(), prompt, options,
                 [&](const std::string& text) { texts.push_back(text); });
  return texts;
}

ModelConfig byte_config(const std::string& mixer) {
  ModelConfig config = tiny_config(*make_byte_tokenizer());
  config.mixer = {mixer};
  config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 24};
  return config;
}

TEST(BatchGenerator, ATextDoesNotDependOnWhatGoesBesideIt) {
  for (const char* mixer : {"harmonic", "attention", "matrix"}) {
    BatchGeneratorOptions options;
    options.count = 9;
    options.max_tokens = 20;
    const auto expected = texts_of(byte_config(mixer), options, 1);
    ASSERT_EQ(expected.size(), 9u);
    EXPECT_GT(std::set<std::string>(expected.begin(), expected.end()).size(), 7u)
        << "texts repeat each other";
    for (const int64_t together : {1, 4, 64}) {
      options.together = together;
      EXPECT_EQ(texts_of(byte_config(mixer), options, 2), expected) << mixer << ", " << together;
    }
    options.count = 3;
    EXPECT_TRUE(
        std::equal(expected.begin(), expected.begin() + 3, texts_of(byte_config(mixer), options, 2).begin()));
  }
}

TEST(BatchGenerator, EndsAtTheModelsContextAndKeepsThePrompt) {
  BatchGeneratorOptions options;
  options.count = 3;
  options.max_tokens = 1000;
  for (const std::string& text : texts_of(byte_config("attention"), options, 1, "Once ")) {
    EXPECT_TRUE(text.starts_with("Once "));
    EXPECT_LE(text.size(), 24u);
  }
}

TEST(Generate, CountWritesDocumentsThatDataReads) {
  const TemporaryFolder folder;
  const std::string model = make_model_folder(folder / "m", *make_byte_tokenizer());
  const Outcome made = run_harmonic({"generate", "--model", model, "--count", "5", "--max-tokens", "30"});
  ASSERT_EQ(made.status, 0) << made.err;
  EXPECT_EQ(std::count(made.out.begin(), made.out.end(), '\0'), 5);
  const Outcome refused =
      run_harmonic({"generate", "--model", model, "--count", "5", "--state-out", folder / "s"});
  EXPECT_EQ(refused.status, 2);
}

}  // namespace
}  // namespace harmonic
