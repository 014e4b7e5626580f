// harmonic generate, as a child process.
#include <gtest/gtest.h>

#include "harmonic/base/utf8.h"
#include "tests/cli_process.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

using namespace std::string_literals;

class Generate : public ::testing::Test {
 protected:
  Generate() : model_(make_model_folder(folder_ / "model", *make_byte_tokenizer(), 3)) {}

  Outcome run(const std::vector<std::string>& more, const std::string& input = "") const {
    std::vector<std::string> words = {"generate", "--model", model_, "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return run_with_input(words, input);
  }
  // The text, without the newline that ends the output.
  std::string text(const std::vector<std::string>& more, const std::string& input = "") const {
    const Outcome outcome = run(more, input);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    EXPECT_TRUE(outcome.out.ends_with('\n'));
    return outcome.out.substr(0, outcome.out.size() - 1);
  }

  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(Generate, TheSameSeedGivesTheSameTextAndAnotherSeedAnother) {
  const std::string one = text({"--prompt", "Once", "--seed", "1"});
  EXPECT_EQ(text({"--prompt", "Once", "--seed", "1"}), one);
  EXPECT_EQ(text({"--prompt", "Once"}), one);
  EXPECT_EQ(text({"--prompt", "Once", "--threads", "2"}), one);
  EXPECT_NE(text({"--prompt", "Once", "--seed", "2"}), one);
  EXPECT_TRUE(one.starts_with("Once"));
  EXPECT_GT(one.size(), 10u);
}

TEST_F(Generate, GreedyTextDependsOnNoSeed) {
  EXPECT_EQ(text({"--temperature", "0", "--seed", "1"}), text({"--temperature", "0", "--seed", "2"}));
}

TEST_F(Generate, ThePromptComesFromTheArgumentAFileOrStandardInput) {
  const std::string prompt = "two\nlines \xe6\x97\xa5";
  const std::string file = folder_.file("prompt.txt", prompt);
  const std::string expected = text({"--prompt", prompt});
  EXPECT_EQ(text({"--prompt-file", file}), expected);
  EXPECT_EQ(text({"--prompt-file", "-"}, prompt), expected);
  EXPECT_EQ(text({"-"}, prompt), expected);
}

TEST_F(Generate, AnyPromptIsTakenAsItStands) {
  for (const char* prompt :
       {" a time ", "\"quoted\"", "'", "[1, 2]", "a,b", "--model", "-x", "--", "\ttab\n"})
    EXPECT_EQ(text({"--prompt", prompt, "--max-tokens", "0"}), prompt);
}

TEST_F(Generate, AnEmptyPromptIsNone) {
  const std::string expected = text({});
  EXPECT_EQ(text({"--prompt", ""}), expected);
  EXPECT_EQ(text({"-"}), expected);
}

TEST_F(Generate, WritesAtMostSoManyTokens) {
  EXPECT_EQ(text({"--prompt", "abc", "--max-tokens", "0"}), "abc");
  EXPECT_EQ(text({"--prompt", "abc", "--max-tokens", "1", "--top-k", "1"}).substr(0, 3), "abc");
}

TEST_F(Generate, ASavedStateGoesOnExactlyAsOneLongerRun) {
  const std::string whole = folder_ / "whole", first = folder_ / "first", second = folder_ / "second";
  // Seeds whose texts do not end within the first piece: what went on from there would be another text.
  for (const std::vector<std::string>& how :
       {std::vector<std::string>{"--temperature", "0"}, std::vector<std::string>{"--seed", "7"},
        std::vector<std::string>{"--seed", "6", "--ignore-end", "--top-k", "50"}}) {
    const auto with = [&](std::vector<std::string> words) {
      words.insert(words.end(), how.begin(), how.end());
      return text(words);
    };
    const std::string expected = with({"--prompt", "Once", "--max-tokens", "600", "--state-out", whole});
    std::string pieces = with({"--prompt", "Once", "--max-tokens", "150", "--state-out", first});
    pieces += with({"--max-tokens", "450", "--state-in", first, "--state-out", second});
    EXPECT_EQ(read_file(second), read_file(whole));
    EXPECT_EQ(pieces, expected);
  }
}

TEST_F(Generate, ACharacterThatASavedStateEndsWithinIsWrittenByTheRunThatGoesOn) {
  const std::string state = folder_ / "state";
  const auto generate = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--temperature", "0", "--ignore-end"});
    return text(words);
  };
  // The model's bytes are random, half of them of no ASCII character; the prompts cut one themselves.
  int cut = 0;
  for (const std::string& prompt : {"caf\xc3"s, "\xf0\x9f\x99"s, "ok"s}) {
    for (const std::string& middle : {""s, "\xa9"s, "\x82!"s, "x"s}) {
      for (const char* tokens : {"0", "1", "2", "7"}) {
        const std::string first =
            generate({"--prompt", prompt, "--max-tokens", tokens, "--state-out", state});
        cut += first.size() < generate({"--prompt", prompt, "--max-tokens", tokens}).size();
        EXPECT_TRUE(is_utf8(first));
        const std::string second = generate({"--prompt", middle, "--state-in", state, "--max-tokens", "20"});
        if (tokens == "0"s) {
          EXPECT_EQ(first + second, generate({"--prompt", prompt + middle, "--max-tokens", "20"}));
        } else if (middle.empty()) {
          EXPECT_EQ(first + second,
                    generate({"--prompt", prompt, "--max-tokens", std::to_string(20 + std::stoi(tokens))}));
        }
      }
    }
  }
  EXPECT_GE(cut, 8) << "texts that end within a character";
}

TEST_F(Generate, ACharacterThatTheEndOfADocumentCutsIsWrittenWithIt) {
  const std::string state = folder_ / "state";
  const auto tokenizer = make_byte_tokenizer();
  Model model(tiny_config(*tokenizer), cpu_backend(), false);
  initialise_for_test(model, 1);
  const Tensor head = model.parameters().find("head.weight")->value;
  for (int64_t v = 0; v < head.rows; ++v)
    std::fill_n(head.row<float>(v), head.cols, 0.0f);  // ends every text
  save_model_folder(folder_ / "ending", model, *tokenizer);
  model_ = folder_ / "ending";
  const std::vector<std::string> words = {"--prompt", "caf\xc3", "--temperature", "0"};
  EXPECT_EQ(text(words), "caf\uFFFD");
  EXPECT_EQ(text({"--prompt", "caf\xc3", "--temperature", "0", "--state-out", state}), "caf\uFFFD");
  EXPECT_EQ(text({"--prompt", "e", "--max-tokens", "0", "--state-in", state}), "e");
}

TEST_F(Generate, AStateSavedAfterTheEndOfATextBeginsAnotherDocument) {
  const std::string state = folder_ / "state", seed = "2";
  const std::string first = text({"--max-tokens", "100000", "--seed", seed, "--state-out", state});
  ASSERT_LT(first.size(), 100'000u) << "the model never ended the document";
  const std::string second = text({"--state-in", state, "--max-tokens", "40", "--seed", seed});
  EXPECT_GT(second.size(), 10u);
  EXPECT_TRUE(
      text({"--max-tokens", "100000", "--seed", seed, "--ignore-end"}).starts_with(first + "\n\n" + second));
  // A prompt is the beginning of that document.
  EXPECT_EQ(text({"--state-in", state, "--prompt", "Once", "--temperature", "0"}),
            text({"--prompt", "Once", "--temperature", "0"}));
}

TEST_F(Generate, APromptThatContinuesAStateIsPartOfTheText) {
  const std::string state = folder_ / "state";
  text({"--prompt", "Once upon", "--max-tokens", "0", "--state-out", state});
  EXPECT_EQ("Once upon" + text({"--prompt", " a time", "--state-in", state}),
            text({"--prompt", "Once upon a time"}));
}

// The space that leads every text of such a vocabulary is neither shown nor put into the middle of a text.
TEST_F(Generate, WordsThatBeginWithASpaceGoOnAndBeginAsTheyShould) {
  const std::string pieces = make_model_folder(folder_ / "pieces", *small_sentencepiece(), 3);
  const std::string state = folder_ / "state";
  const auto text_of = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--model", pieces, "--threads", "1"});
    const Outcome outcome = run_harmonic(more);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out.substr(0, outcome.out.size() - 1);
  };
  EXPECT_EQ(text_of({"--prompt", "the", "--max-tokens", "0"}), "the");
  EXPECT_EQ(text_of({"--prompt", "once the", "--max-tokens", "0", "--state-out", state}), "once the");
  const std::string rest = text_of({"--prompt", "the", "--state-in", state, "--max-tokens", "20"});
  EXPECT_TRUE(rest.starts_with("the"));
  EXPECT_EQ("once the" + rest, text_of({"--prompt", "once thethe", "--max-tokens", "20"}));
}

TEST_F(Generate, TheStateMayBeWrittenOverTheOneThatWasRead) {
  const std::string state = folder_ / "state", other = folder_ / "other";
  text({"--prompt", "x", "--max-tokens", "9", "--state-out", state});
  text({"--state-in", state, "--max-tokens", "9", "--state-out", state});
  text({"--prompt", "x", "--max-tokens", "18", "--state-out", other});
  EXPECT_EQ(read_file(state), read_file(other));
}

TEST_F(Generate, OutputIsAlwaysWholeCharacters) {
  for (int seed = 0; seed < 10; ++seed) {
    // Half a character in the prompt: what comes may complete it.
    for (const char* prompt : {"", "\xe6\x97", "\xff", "ok \xf0\x9f"})
      EXPECT_TRUE(is_utf8(text({"--prompt", prompt, "--seed", std::to_string(seed), "--max-tokens", "100"})));
  }
}

TEST_F(Generate, ACharacterThatThePromptBeganIsCompletedByTheModel) {
  // A model that writes nothing but the bytes 0xa9 and 0xaa, the second halves of two letters: of a hidden
  // number and its negative one is above the logits of all other bytes, which are 0.
  const auto tokenizer = make_byte_tokenizer();
  Model model(tiny_config(*tokenizer), cpu_backend(), false);
  initialise_for_test(model, 1);
  const Tensor head = model.parameters().find("head.weight")->value;
  for (int64_t v = 0; v < head.rows; ++v) std::fill_n(head.row<float>(v), head.cols, 0.0f);
  head.row<float>(0xa9)[0] = 1;
  head.row<float>(0xaa)[0] = -1;
  save_model_folder(folder_ / "accent", model, *tokenizer);
  model_ = folder_ / "accent";
  const std::string word = text({"--prompt", "caf\xc3", "--max-tokens", "1", "--temperature", "0"});
  EXPECT_TRUE(word == "caf\xc3\xa9" || word == "caf\xc3\xaa") << word;
}

TEST_F(Generate, AfterTheEndOfADocumentAnotherOneBegins) {
  const std::string one = text({"--max-tokens", "100000", "--seed", "2"});
  ASSERT_LT(one.size(), 100'000u) << "the model never ended the document";
  const std::string many = text({"--max-tokens", "3000", "--seed", "2", "--ignore-end"});
  ASSERT_GT(many.size(), one.size() + 20);
  EXPECT_TRUE(many.starts_with(one + "\n\n"));
  EXPECT_NE(many.substr(one.size() + 2, 10), one.substr(0, 10)) << "the same document again";
}

TEST_F(Generate, AnInterruptEndsItCleanlyWithTheStateSaved) {
  const std::string state = folder_ / "state";
  HarmonicProcess process({"generate", "--model", model_, "--prompt", "begin", "--max-tokens", "1G",
                           "--ignore-end", "--state-out", state});
  process.close_input();
  ASSERT_TRUE(process.shows_more_than(5)) << "the prompt is shown before the model has read it";
  process.interrupt();
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.status, 130);
  EXPECT_TRUE(is_utf8(outcome.out));
  EXPECT_EQ(run({"--state-in", state, "--max-tokens", "5"}).status, 0);
}

TEST_F(Generate, AnInterruptWhileThePromptIsReadSavesNoState) {
  const std::string state = folder_.file("state", "of before");
  const std::string prompt = folder_.file("prompt", std::string(30'000'000, 'x'));
  HarmonicProcess process({"generate", "--model", model_, "--prompt-file", prompt, "--state-out", state});
  process.close_input();
  ASSERT_TRUE(process.shows_more_than(0));
  process.interrupt(SIGTERM);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_EQ(outcome.err, "harmonic: error: interrupted\n");
  EXPECT_EQ(read_file(state), "of before");
}

TEST_F(Generate, TextComesAsItIsWritten) {
  HarmonicProcess process({"generate", "--model", model_, "--max-tokens", "1G", "--ignore-end"});
  process.close_input();
  EXPECT_TRUE(process.shows("\n\n"));
  process.interrupt();
  EXPECT_EQ(process.wait().status, 130);
}

TEST_F(Generate, EndsWhereTheContextOfAnAttentionModelEnds) {
  model_ = make_model_folder(folder_ / "short", *make_byte_tokenizer(), 3, [](ModelConfig& config) {
    config.mixer = {"attention"};
    config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 20};
  });
  const std::string state = folder_ / "state";
  const Outcome outcome =
      run({"--prompt", "Once", "--max-tokens", "100", "--ignore-end", "--state-out", state});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("fills the model's context"), std::string::npos) << outcome.err;
  EXPECT_TRUE(std::filesystem::exists(state));
}

}  // namespace
}  // namespace harmonic
