// eval --task and data recall, as child processes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harmonic/base/json.h"
#include "tests/cli_process.h"

namespace harmonic {
namespace {

class EvalTask : public ::testing::Test {
 protected:
  static std::string output(const std::vector<std::string>& words) {
    const Outcome outcome = run_harmonic(words);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  }
  // The error of `eval` with these words more.
  std::string error(std::vector<std::string> words, int status) const {
    words.insert(words.begin(), {"eval", "--model", model_});
    const Outcome outcome = run_harmonic(words);
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_TRUE(outcome.err.starts_with("harmonic: error: ")) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  }
  static void expect_holds(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
  Json json_of(std::vector<std::string> words) const {
    const std::string json = folder_ / "eval.json";
    words.insert(words.begin(), {"eval", "--model", model_});
    words.insert(words.end(), {"--json", json});
    shown_ = output(words);
    return parse_json(read_file(json), json);
  }

  TemporaryFolder folder_;
  std::string model_ = make_model_folder(folder_ / "model", *make_byte_tokenizer());
  std::string passages_ = folder_.file("passages.jsonl",
                                       "{\"text\": \"a stone, and inside it a stone\"}\n"
                                       "{\"text\": \"one more word\"}\n{\"text\": \"the last\"}\n");
  mutable std::string shown_;
};

TEST_F(EvalTask, LambadaWritesAResultWithTheCertificateBesideIt) {
  const Json json = json_of({"--task", "lambada", "--data", passages_});
  EXPECT_EQ(json["model"], model_);
  EXPECT_EQ(json["certificate"], "passed");
  EXPECT_EQ(json["task"], "lambada");
  ASSERT_EQ(json["results"].size(), 1u);
  const Json& result = json["results"][0];
  EXPECT_EQ(result["group"], "all");
  EXPECT_EQ(result["examples"], 3);
  EXPECT_GE(result["accuracy"], 0);
  EXPECT_TRUE(result["chance"].is_null());
  // Words of 6, 5 and 5 bytes, about a byte's worth each.
  EXPECT_GT(result["bits"], 7 * 16 / 3);
  EXPECT_LT(result["bits"], 10 * 16 / 3);
  EXPECT_NEAR(std::log2(result["perplexity"].get<double>()), result["bits"].get<double>(), 1e-9);
  EXPECT_EQ(result["context_tokens"], (1 + 24 + 1 + 8 + 1 + 3) / 3.0);
  EXPECT_EQ(result.size(), 7u);
  expect_holds(shown_, "certificate (short form): passed");
}

TEST_F(EvalTask, RecallWritesAResultForEachNumberOfPairsAndEachDistance) {
  const Json json =
      json_of({"--task", "recall", "--distances", "64,1K", "--pairs", "1,3", "--examples", "7"});
  EXPECT_EQ(json["task"], "recall");
  ASSERT_EQ(json["results"].size(), 4u);
  const char* const names[] = {"passkey at 64", "passkey at 1000", "3 pairs at 64", "3 pairs at 1000"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json["results"][i]["group"], names[i]);
    EXPECT_EQ(json["results"][i]["examples"], 7);
    EXPECT_GT(json["results"][i]["chance"], 0);
    expect_holds(shown_, names[i]);
  }
}

TEST_F(EvalTask, HasTheSameBitsWithAnyNumberOfThreads) {
  for (const std::vector<std::string>& task : std::vector<std::vector<std::string>>{
           {"--task", "lambada", "--data", passages_},
           {"--task", "recall", "--distances", "64,3000", "--examples", "5"}}) {
    std::vector<std::string> words = task;
    words.insert(words.end(), {"--threads", "1"});
    const Json one = json_of(words);
    words.back() = "3";
    EXPECT_EQ(json_of(words), one);
  }
}

TEST_F(EvalTask, AnUnknownTaskIsAnErrorWithTheNearestName) {
  expect_holds(error({"--task", "lambda", "--data", passages_}, 2), "did you mean \"lambada\"?");
  expect_holds(error({"--task", "recal"}, 2), "did you mean \"recall\"?");
  expect_holds(error({"--task", "hellaswag", "--data", passages_}, 2), "expected text, lambada or recall");
}

TEST_F(EvalTask, AFlagOfAnotherTaskIsAnError) {
  expect_holds(error({"--task", "recall", "--data", passages_}, 2),
               "--data has no meaning for --task recall");
  expect_holds(error({"--task", "lambada", "--data", passages_, "--lengths", "64"}, 2), "--lengths");
  expect_holds(error({"--data", passages_, "--distances", "64"}, 2),
               "--distances has no meaning for --task text");
  expect_holds(error({"--task", "lambada"}, 2), "--data is missing");
  expect_holds(error({}, 2), "--data is missing");
}

TEST_F(EvalTask, WhatATaskCannotAskIsAnError) {
  expect_holds(error({"--task", "recall", "--distances", "5"}, 2), "a distance of 5 bytes has no room");
  error({"--task", "recall", "--distances", "0"}, 2);
  error({"--task", "recall", "--distances", "64,2T"}, 2);
  error({"--task", "recall", "--pairs", "27"}, 2);
  error({"--task", "recall", "--examples", "0"}, 2);
  error({"--task", "recall", "--filler", folder_ / "missing"}, 1);
  expect_holds(error({"--task", "recall", "--filler", folder_.file("nothing", "")}, 1), "is empty");
  const std::string word = folder_.file("word.jsonl", "{\"text\": \"word\"}\n");
  expect_holds(error({"--task", "lambada", "--data", word}, 1), word + ": document 1 has no last word");
  expect_holds(error({"--task", "lambada", "--data", folder_.file("empty", "")}, 1), "holds no text");
  expect_holds(error({"--task", "lambada", "--data", folder_.file("bad.jsonl", "{\"text\": 1}\n")}, 1),
               "line 1");
}

TEST_F(EvalTask, AnAttentionModelRefusesTextsLongerThanItsContext) {
  model_ = make_model_folder(folder_ / "attention", *make_byte_tokenizer(), 1, [](ModelConfig& config) {
    config.mixer = {"attention"};
    config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 100};
  });
  EXPECT_EQ(
      json_of({"--task", "recall", "--distances", "64", "--pairs", "1", "--examples", "2"})["results"].size(),
      1u);
  expect_holds(error({"--task", "recall", "--distances", "64,1000", "--examples", "2"}, 1),
               "example 3: attention remembers 100 tokens");
  const std::string passages = folder_.file(
      "long.jsonl", "{\"text\": \"one word\"}\n{\"text\": \"" + std::string(100, 'x') + " word\"}\n");
  expect_holds(error({"--task", "lambada", "--data", passages}, 1),
               "example 2: attention remembers 100 tokens");
}

TEST_F(EvalTask, OfATextWritesItsBitsByContextAndByPhase) {
  const std::string text = folder_.file("text", std::string(99, 'x'));
  const Json json = json_of({"--data", text, "--lengths", "1000,5"});
  const Json& result = json["results"][0];
  const std::vector<int64_t> tokens = {1, 2, 4, 8, 16, 32, 37};
  ASSERT_EQ(result["by_context"].size(), tokens.size());
  double bits = 0, by_phase = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Json& bucket = result["by_context"][i];
    EXPECT_EQ(bucket["from"], int64_t{1} << i);
    EXPECT_EQ(bucket["to"], int64_t{2} << i);
    EXPECT_EQ(bucket["tokens"], tokens[i]);
    bits += bucket["bits_per_token"].get<double>() * static_cast<double>(tokens[i]);
  }
  EXPECT_NEAR(bits, result["bits_per_token"].get<double>() * 100, 1e-6);
  ASSERT_EQ(result["by_phase"].size(), 16u);
  for (size_t i = 0; i < 16; ++i) by_phase += result["by_phase"][i].get<double>() * (i < 100 % 16 ? 7 : 6);
  EXPECT_NEAR(by_phase, bits, 1e-6);
  EXPECT_TRUE(json["results"][1]["by_phase"][5].is_null());  // windows of 5 have none
  EXPECT_EQ(shown_.find("64 to 127"), std::string::npos);
  expect_holds(output({"eval", "--model", model_, "--data", text, "--by-context"}), "64 to 127");
}

TEST_F(EvalTask, DataRecallWritesDocumentsThatEveryReaderFinds) {
  const std::string out = folder_ / "recall.txt", again = folder_ / "again.txt",
                    other = folder_ / "other.txt";
  const std::vector<std::string> words = {"data",     "recall", "--documents", "20",
                                          "--length", "300",    "--pairs",     "1,4"};
  const auto written = [&](const std::string& path, const std::string& seed) {
    std::vector<std::string> all = words;
    all.insert(all.end(), {"--out", path, "--seed", seed});
    output(all);
    return read_file(path);
  };
  const std::string text = written(out, "3");
  EXPECT_EQ(text.size(), 20u * 301);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\0'), 20);
  EXPECT_EQ(written(again, "3"), text);
  EXPECT_NE(written(other, "4"), text);
  const std::string shown = output({"data", "prepare", "--data", out, "--out", folder_ / "shards"});
  expect_holds(shown, "documents           20\n");
}

TEST_F(EvalTask, DataRecallDoesNotReadFillerWithoutEnd) {
  const std::string out = folder_ / "recall.txt";
  const Outcome outcome = run_harmonic({"data", "recall", "--out", out, "--filler", "/dev/zero"});
  EXPECT_EQ(outcome.status, 1);
  expect_holds(outcome.err, "more than 268435456 bytes");
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(EvalTask, DataRecallRefusesDocumentsWithoutRoom) {
  const std::string out = folder_ / "recall.txt";
  const Outcome outcome = run_harmonic({"data", "recall", "--out", out, "--length", "20"});
  EXPECT_EQ(outcome.status, 2) << outcome.err;
  expect_holds(outcome.err, "have no room");
  EXPECT_FALSE(std::filesystem::exists(out));
}

}  // namespace
}  // namespace harmonic
