// harmonic bench, at sizes that take no time.
#include <gtest/gtest.h>
#include <poll.h>

#include <fstream>

#include "cli_process.h"
#include "cli_program.h"
#include "harmonic/base/json.h"

namespace harmonic {
namespace {

// Runs it and returns its JSON, which comes after the table.
Json bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "bench");
  arguments.insert(arguments.end(), {"--json", "/dev/stdout", "--threads", "2"});
  const Outcome outcome = run_harmonic(arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const size_t json = outcome.out.find("\n{");
  if (json == std::string::npos) return {};
  EXPECT_NE(outcome.out.substr(0, json).find("checked: "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.substr(0, json).find("matrix peak "), std::string::npos) << outcome.out;
  return Json::parse(outcome.out.substr(json), nullptr, false);
}

TEST(BenchCommand, MeasuresOpsBesideThePeaks) {
  const Json json = bench({"ops", "--d-model", "64", "--rows", "200", "--vocab", "100", "--runs", "1"});
  ASSERT_GT(json["rows"].size(), 20u);
  for (const Json& row : json["rows"]) {
    EXPECT_GT(row["us"], 0.0);
    EXPECT_GT(row["of memory %"], 0.0) << row["op"];
  }
}

TEST(BenchCommand, MeasuresOnlyTheOpsThatAreNamed) {
  const Json json =
      bench({"ops", "--only", "linear", "--d-model", "32", "--rows", "40", "--vocab", "30", "--runs", "1"});
  ASSERT_EQ(json["rows"].size(), 6u);
  EXPECT_EQ(json["rows"][0]["op"], "linear, C -> 1 C");
  EXPECT_EQ(run_harmonic({"bench", "ops", "--only", "linoleum"}).status, 2);
}

TEST(BenchCommand, MeasuresTrainingAndDecodingOfEveryMixer) {
  const Json train = bench(
      {"train", "--d-model", "32", "--lengths", "50,100", "--vocab", "64", "--tokens", "100", "--runs", "1"});
  ASSERT_EQ(train["rows"].size(), 6u);
  for (const Json& row : train["rows"]) EXPECT_GT(row["tokens/s"], 0.0);
  const Json decode = bench({"decode", "--mixers", "harmonic,mamba", "--d-model", "32", "--vocab", "64",
                             "--streams", "1,3", "--tokens", "4", "--runs", "1"});
  ASSERT_EQ(decode["rows"].size(), 12u);
  const Json deep = bench({"decode", "--mixers", "harmonic", "--d-model", "32", "--layers", "3", "--vocab",
                           "64", "--streams", "1", "--tokens", "4", "--runs", "1", "--weights", "f32"});
  ASSERT_EQ(deep["rows"].size(), 1u);
  EXPECT_EQ(deep["rows"][0]["layers"], 3.0);
  EXPECT_GT(deep["rows"][0]["MB of weights"], 2 * decode["rows"][0]["MB of weights"].get<double>());
  EXPECT_EQ(decode["rows"][0]["x the first"], 1.0);
  EXPECT_LT(decode["rows"][4]["MB of weights"], decode["rows"][0]["MB of weights"]) << "int8 and f32";
}

TEST(BenchCommand, MeasuresDecodingOfAModelAfterContexts) {
  const std::string path = std::string(HARMONIC_SOURCE_DIR) + "/tests/golden/small_llama.gguf";
  const Json json = bench({"decode", "--model", path, "--contexts", "4,9", "--tokens", "3", "--runs", "1"});
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_EQ(json["rows"][1]["context"], 9.0);
  for (const Json& row : json["rows"]) EXPECT_GT(row["tokens/s"], 0.0);
  const auto megabytes = [&](const std::string& weights) {
    return bench({"decode", "--model", path, "--contexts", "4", "--tokens", "3", "--runs", "1", "--weights",
                  weights})["rows"][0]["MB of weights"]
        .get<double>();
  };
  EXPECT_NEAR(megabytes("bf16"), megabytes("f32") / 2, 0.1 * megabytes("f32"));
  const Outcome two = run_harmonic({"bench", "decode", "--model", path, "--weights", "f32,bf16"});
  EXPECT_EQ(two.status, 2);
  EXPECT_NE(two.err.find("--weights"), std::string::npos) << two.err;
  const Outcome outcome = run_harmonic({"bench", "decode", "--model", path, "--contexts", "100K"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("--contexts"), std::string::npos) << outcome.err;
}

TEST(BenchCommand, MeasuresLengthAndMemory) {
  const Json length =
      bench({"length", "--d-model", "32", "--lengths", "100,400", "--stream", "2K", "--runs", "1"});
  ASSERT_EQ(length["rows"].size(), 8u);
  const Json memory = bench({"memory", "--cases", "1K:64:32", "4K:64:32", "--memory-mb", "1"});
  ASSERT_EQ(memory["rows"].size(), 2u);
  EXPECT_GT(memory["rows"][0]["peak MB"], 1.0);
  EXPECT_LT(memory["rows"][1]["chunk"], 1000.0);
}

TEST(BenchCommand, RefusesWhatItWouldNotMeasure) {
  const std::string model = std::string(HARMONIC_SOURCE_DIR) + "/tests/golden/small_llama.gguf";
  const auto refused = [](std::vector<std::string> words, const std::string& named) {
    words.insert(words.begin(), "bench");
    const Outcome outcome = run_harmonic(words);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(named), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("internal error"), std::string::npos) << outcome.err;
  };
  refused({"ops", "--d-model", "6", "--rows", "3"}, "--d-model 6");
  refused({"train", "--mixers", "attention", "--d-model", "3"}, "d_model 3");
  refused({"decode", "--contexts", "4"}, "--contexts");
  refused({"decode", "--model", model, "--streams", "64"}, "--streams");
  refused({"decode", "--model", model, "--layers", "2"}, "--layers");
  refused({"length", "--stream", "999999999999999999999"}, "--stream");
  refused({"memory", "--cases", "9E:256:64"}, "--cases");
  refused({"memory", "--cases", "1K:256:64:7"}, "1K:256:64:7");
  refused({"memory", "--cases", "1K:256:1"}, "d_model 1: expected 2 at least");
  refused({"train", "--mixers", "mamba", "--d-model", "1"}, "from 2 to");
}

// Nothing is checked or measured before, of which progress would tell.
TEST(BenchCommand, RefusesALaterSizeBeforeTheFirstIsMeasured) {
  for (std::vector<std::string> words : std::vector<std::vector<std::string>>{
           {"memory", "--cases", "1K:256:64", "1K:99999999999:64"},
           {"memory", "--cases", "1K:256:64", "8G:256:64"},
           {"train", "--mixers", "harmonic,attention", "--d-model", "4096,4097", "--vocab", "1M"},
           {"decode", "--mixers", "harmonic,attention", "--d-model", "4096,4097", "--vocab", "1M"},
           {"ops", "--only", "linoleum", "--rows", "10M"}}) {
    words.insert(words.begin(), "bench");
    const auto begin = std::chrono::steady_clock::now();
    const Outcome outcome = run_harmonic(words);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << words[1];
  }
}

TEST(BenchCommand, NamesTheFileThatItCannotWriteBeforeItMeasures) {
  const Outcome outcome = run_harmonic({"bench", "memory", "--json", "/no such folder/x.json"});
  EXPECT_EQ(outcome.err,
            "harmonic: error: /no such folder/x.json: cannot write: there is no folder /no such folder; make "
            "it, or name another\n");
  EXPECT_EQ(outcome.status, 1);
}

// Whether a process has a child, by the table of all.
bool has_child(pid_t parent) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream status(entry.path() / "status");
    for (std::string line; std::getline(status, line);)
      if (line == "PPid:\t" + std::to_string(parent)) return true;
  }
  return false;
}

TEST(BenchCommand, AStepThatIsMeasuredEndsWithTheProgram) {
  for (const int signal_number : {SIGTERM, SIGINT, SIGKILL}) {
    int ends[2];  // of a pipe that the program and its child hold: it ends when both have
    ASSERT_EQ(::pipe(ends), 0);
    ::fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    HarmonicProcess process({"bench", "memory", "--cases", "10M:256:128", "--threads", "1"});
    ::close(ends[1]);
    for (int i = 0; i < 6000 && !has_child(process.id()); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_TRUE(has_child(process.id()));
    process.interrupt(signal_number);
    EXPECT_EQ(process.wait().status, 128 + signal_number);
    struct pollfd held = {ends[0], 0, 0};
    EXPECT_EQ(::poll(&held, 1, 10'000), 1) << "the child goes on";
    ::close(ends[0]);
  }
}

TEST(BenchCommand, SaysWhatIsWrongWithACase) {
  const Outcome outcome = run_harmonic({"bench", "memory", "--cases", "64K:256"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("TOKENS:VOCABULARY:D_MODEL"), std::string::npos) << outcome.err;
  EXPECT_EQ(run_harmonic({"bench", "train", "--mixers", "mambo"}).status, 2);
}

}  // namespace
}  // namespace harmonic
