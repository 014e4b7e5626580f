// Chats: harmonic convert --chat-template and harmonic generate --chat.
#include <gtest/gtest.h>

#include "tests/cli_process.h"

namespace harmonic {
namespace {

const std::string kSource = std::string(HARMONIC_SOURCE_DIR) + "/tests/golden/small_llama.gguf";

class Chat : public ::testing::Test {
 protected:
  Chat() {
    const Outcome outcome =
        run_with_input({"convert", "--from", kSource, "--chat-template", "chatml", "--out", model_}, "");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_NE(outcome.out.find("chatml"), std::string::npos) << outcome.out;
  }
  Outcome run(const std::vector<std::string>& more, const std::string& input = "") const {
    std::vector<std::string> words = {"generate",     "--model", model_,          "--threads", "1",
                                      "--max-tokens", "12",      "--temperature", "0"};
    words.insert(words.end(), more.begin(), more.end());
    return run_with_input(words, input);
  }
  std::string text(const std::vector<std::string>& more, const std::string& input = "") const {
    const Outcome outcome = run(more, input);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  }

  TemporaryFolder folder_;
  std::string model_ = folder_ / "model";
};

TEST_F(Chat, TheAnswerAloneIsWrittenAndDependsOnTheMessages) {
  const std::string answer = text({"--chat", "--prompt", "the cat sat on it"});
  EXPECT_EQ(answer.find("the cat sat on it"), std::string::npos);
  EXPECT_EQ(text({"--chat", "-"}, "the cat sat on it"), answer);
  EXPECT_NE(text({"--chat", "--prompt", "the hat"}), answer);
  EXPECT_NE(text({"--chat", "--prompt", "the cat sat on it", "--system", "on the hat"}), answer);
}

TEST_F(Chat, ASavedChatGoesOnWithTheNextMessage) {
  const std::string state = folder_ / "state";
  const std::string first = text({"--chat", "--prompt", "the cat", "--state-out", state});
  const std::string second = text({"--chat", "--prompt", "the hat", "--state-in", state});
  EXPECT_EQ(text({"--chat", "--prompt", "the hat", "--state-in", state}), second);
  EXPECT_NE(second, text({"--chat", "--prompt", "the hat"})) << "what was said before counts";
}

TEST_F(Chat, WhatMakesNoSenseIsRefused) {
  const std::string state = folder_ / "state";
  text({"--chat", "--prompt", "the cat", "--state-out", state});
  EXPECT_EQ(run({"--prompt", "x", "--system", "y"}).status, 2);
  EXPECT_EQ(run({"--chat", "--prompt", "x", "--ignore-end"}).status, 2);
  EXPECT_EQ(run({"--chat", "--prompt", "x", "--system", "y", "--state-in", state}).status, 2);

  const std::string plain = folder_ / "plain";
  ASSERT_EQ(run_with_input({"convert", "--from", kSource, "--out", plain}, "").status, 0);
  const Outcome without = run_with_input({"generate", "--model", plain, "--chat", "--prompt", "x"}, "");
  EXPECT_EQ(without.status, 1);
  EXPECT_NE(without.err.find("--chat-template"), std::string::npos) << without.err;

  const Outcome wrong = run_with_input(
      {"convert", "--from", kSource, "--chat-template", "zephyr", "--out", folder_ / "wrong"}, "");
  EXPECT_EQ(wrong.status, 1);
  EXPECT_NE(wrong.err.find("</s>"), std::string::npos) << wrong.err;

  folder_.file("model/generation_config.json", R"({"chat_template": "unheard of"})");
  const Outcome unknown = run({"--prompt", "x"});
  EXPECT_EQ(unknown.status, 1);
  EXPECT_NE(unknown.err.find("generation_config.json"), std::string::npos) << unknown.err;
}

}  // namespace
}  // namespace harmonic
