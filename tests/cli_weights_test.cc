// --weights bf16 and int8, as a user gives them.
#include <gtest/gtest.h>

#include <cmath>

#include "harmonic/base/json.h"
#include "tests/cli_process.h"

namespace harmonic {
namespace {

class WeightsFlag : public ::testing::Test {
 protected:
  WeightsFlag() : model_(make_model_folder(folder_ / "model", *make_byte_tokenizer(), 3)) {}
  std::string output(std::vector<std::string> words, const std::string& input = "") const {
    const Outcome outcome = run_with_input(words, input);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  }

  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(WeightsFlag, EvalShowsWhatRoundingCostsWithTheCertificateOfTheRoundedModel) {
  const std::string data = folder_.file("text", std::string(3000, 'a') + "some text that is long enough");
  std::vector<double> bits;
  for (const char* weights : {"f32", "bf16", "int8"}) {
    const std::string path = folder_ / "eval.json";
    output({"eval", "--model", model_, "--data", data, "--lengths", "100", "--weights", weights, "--json",
            path});
    const Json json = parse_json(read_file(path), path);
    EXPECT_EQ(json["weights"], weights);
    EXPECT_EQ(json["certificate"], "passed");
    const Json& result = json["results"][0];
    bits.push_back(result["bits_per_byte"]);
    // Rounded matrices are shown beside the same text's bits without rounding.
    EXPECT_EQ(result.value("f32_bits_per_byte", Json()),
              std::string(weights) == "f32" ? Json() : Json(bits[0]))
        << weights;
  }
  EXPECT_NE(bits[0], bits[1]);
  EXPECT_NE(bits[0], bits[2]);
  EXPECT_NEAR(bits[0], bits[1], 0.1);
  EXPECT_NEAR(bits[0], bits[2], 0.3);
}

TEST_F(WeightsFlag, TextAndScoresDoNotDependOnTheThreads) {
  for (const char* weights : {"bf16", "int8"}) {
    const auto text = [&](const char* threads) {
      return output({"generate", "--model", model_, "--prompt", "Once", "--weights", weights, "--threads",
                     threads, "--ignore-end"});
    };
    EXPECT_EQ(text("1"), text("2"));
    const auto score = [&](const char* threads) {
      return output(
          {"score", "--model", model_, "--weights", weights, "--by", "token", "--json", "--threads", threads},
          "a text to score");
    };
    EXPECT_EQ(score("1"), score("3"));
    EXPECT_NE(score("1"), output({"score", "--model", model_, "--by", "token", "--json"}, "a text to score"));
  }
}

TEST_F(WeightsFlag, AStateBelongsToTheFormatItWasMadeWith) {
  const std::string state = folder_ / "state";
  output({"generate", "--model", model_, "--weights", "int8", "--max-tokens", "5", "--state-out", state});
  output({"generate", "--model", model_, "--weights", "int8", "--max-tokens", "5", "--state-in", state});
  const Outcome other = run_with_input({"generate", "--model", model_, "--state-in", state}, "");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("the state of another model"), std::string::npos) << other.err;
}

// What is kept packed is another form of the same model: one goes on from the other's state.
TEST_F(WeightsFlag, AGgufFileRunsAsItIsWithTheResultsOfTheConvertedModel) {
  const std::string file = std::string(HARMONIC_SOURCE_DIR) + "/tests/golden/small_llama.gguf";
  const std::string folder = folder_ / "converted";
  output({"convert", "--from", file, "--out", folder});
  const auto scored = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"score", "--by", "token", "--json", "--model"};
    words.insert(words.end(), more.begin(), more.end());
    return output(words, "the cat on the hat");
  };
  const std::string expected = scored({folder});
  EXPECT_EQ(scored({file}), expected);
  EXPECT_EQ(scored({file, "--weights", "f32", "--threads", "2"}), expected);
  EXPECT_EQ(scored({file, "--weights", "int8"}), scored({folder, "--weights", "int8"}));
  EXPECT_NE(scored({file, "--weights", "int8"}), expected);

  const std::string state = folder_ / "gguf.state";
  const auto text = [&](const std::string& model, const char* flag) {
    return output({"generate", "--model", model, "--prompt", "the cat", "--max-tokens", "6", "--ignore-end",
                   flag, state});
  };
  EXPECT_EQ(text(file, "--state-out"), text(folder, "--state-out"));
  EXPECT_EQ(text(file, "--state-in"), text(folder, "--state-in"));

  const std::string data = folder_.file("text", "the cat on the hat, and the hat on the cat"),
                    path = folder_ / "g.json";
  output({"eval", "--model", file, "--data", data, "--format", "text", "--lengths", "16", "--json", path});
  EXPECT_EQ(parse_json(read_file(path), path)["weights"], "stored");
}

TEST_F(WeightsFlag, WhatIsNoModelIsRefused) {
  const std::string file = folder_.file("model.gguf", "GGUF and nothing else");
  const Outcome damaged = run_with_input({"generate", "--model", file}, "");
  EXPECT_EQ(damaged.status, 1);
  EXPECT_NE(damaged.err.find(file), std::string::npos) << damaged.err;
  const std::string other = folder_.file("model.bin", "something else");
  EXPECT_EQ(run_with_input({"score", "--model", other}, "x").status, 1);
}

TEST_F(WeightsFlag, AnotherFormatIsRefused) {
  EXPECT_EQ(run_with_input({"generate", "--model", model_, "--weights", "int4"}, "").status, 2);
}

}  // namespace
}  // namespace harmonic
