// Commands that read text are asked to stop, while they wait for it or work on it: exit 130, soon, and
// nothing half-written.
#include <gtest/gtest.h>

#include "tests/cli_process.h"
#include "tests/data_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

class CliInterrupt : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    fs::create_directory(path("out"));
  }
  // Commands that read standard input and write into out/.
  std::vector<std::vector<std::string>> commands() const {
    return {{"data", "prepare", "--data", "-", "--threads", "2", "--out", path("out/shards")},
            {"tokenizer", "train", "--data", "-", "--threads", "2", "--out", path("out/tokenizer")},
            {"train", "--data", "-", "--threads", "2", "--out", path("out/run")}};
  }
  // The command has this much of its input, and waits for more.
  void expect_prompt_end(const std::vector<std::string>& words, std::string_view input) const {
    for (const int signal_number : {SIGTERM, SIGINT}) {
      HarmonicProcess process(words);
      process.write(input);
      const auto asked = std::chrono::steady_clock::now();
      process.interrupt(signal_number);
      const Outcome outcome = process.wait();
      // A second on an idle machine, and some for one that is not.
      EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::seconds(10)) << words[0];
      EXPECT_EQ(outcome.status, 130) << words[0] << ": " << outcome.err;
      EXPECT_NE(outcome.err.find("harmonic: error: interrupted\n"), std::string::npos) << outcome.err;
      EXPECT_EQ(outcome.out, "");
      for (const auto& entry : fs::recursive_directory_iterator(path("out")))
        EXPECT_TRUE(entry.path().filename() == "run" || entry.path().filename() == ".lock") << entry.path();
    }
  }
};

// More than one round of tokenising and one shard, so that a thread of the pool waits for the rest.
std::string many_documents() {
  std::string text;
  while (text.size() < 40'000'000) text += "time and a river of stone, never the same" + std::string(1, '\0');
  return text;
}

TEST_F(CliInterrupt, EndsTheWorkOnTextAndTheWaitingForIt) {
  const std::string text = many_documents();
  for (const auto& words : commands()) expect_prompt_end(words, text);
}

TEST_F(CliInterrupt, EndsTheWaitingWithinACompressedText) {
  std::string noise;  // packs to about its size
  for (uint32_t i = 1, x = 1; i < 1'000'000; ++i)
    noise += static_cast<char>('a' + (x = x * 1664525 + 1013904223) % 23);
  const std::string packed = read_file(compressed("noise.gz", ARCHIVE_FILTER_GZIP, noise));
  for (const auto& words : commands())
    expect_prompt_end(words, std::string_view(packed).substr(0, packed.size() / 2));
}

}  // namespace
}  // namespace harmonic
