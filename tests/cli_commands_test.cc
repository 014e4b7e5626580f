// check, eval, inspect, tokenizer and data, as child processes.
#include <gtest/gtest.h>

#include "harmonic/base/json.h"
#include "tests/cli_process.h"

namespace harmonic {
namespace {

class Commands : public ::testing::Test {
 protected:
  static std::string output(const std::vector<std::string>& words, const std::string& input = "") {
    const Outcome outcome = run_with_input(words, input);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out;
  }
  static Json json_of(const std::string& path) { return parse_json(read_file(path), path); }
  std::string byte_model() const { return make_model_folder(folder_ / "model", *make_byte_tokenizer()); }
  // Three documents of 1,200, 1 and 500 bytes.
  std::string corpus() const {
    std::string text;
    for (int i = 0; i < 100; ++i) text += "lines of text";
    return folder_.file("corpus", text.substr(0, 1200) + '\0' + 'x' + '\0' + text.substr(0, 500) + '\0');
  }

  // The number that ends the line of `text` that begins with `name`.
  static int64_t figure(const std::string& text, const std::string& name) {
    for (const std::string& line : lines_of(text)) {
      const size_t begin = line.find_first_not_of(' ');
      if (begin == std::string::npos || !line.substr(begin).starts_with(name)) continue;
      std::string digits;
      for (const char c : line.substr(line.rfind(' ')))
        if (c >= '0' && c <= '9') digits += c;
      return std::stoll(digits);
    }
    ADD_FAILURE() << "no line \"" << name << "\" in\n" << text;
    return -1;
  }

  TemporaryFolder folder_;
};

TEST_F(Commands, CheckPassesAnHonestModelOfEveryKind) {
  for (const char* layout : {"levels", "sandwich", "flat"}) {
    const std::string model = folder_ / layout;
    ModelConfig config = tiny_config(*make_byte_tokenizer());
    config.harmonic.layout = layout;
    config.harmonic.cell = {layout == std::string("flat") ? "selective" : "decay"};
    if (layout == std::string("sandwich")) config.harmonic.cells = {1, 1, 1, 1};
    Model made(config, cpu_backend(), false);
    initialise_for_test(made, 4);
    save_model_folder(model, made, *make_byte_tokenizer());
    const Outcome outcome = run_harmonic({"check", "--model", model, "--random-tokens", "4096"});
    EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
    EXPECT_NE(outcome.out.find("certificate passed"), std::string::npos);
    EXPECT_EQ(outcome.out.find("FAIL"), std::string::npos);
  }
}

TEST_F(Commands, CheckWritesTheJsonThatOthersBuildOn) {
  const std::string json = folder_ / "check.json", text = folder_.file("text", "a text of some phases");
  const std::string shown =
      output({"check", "--model", byte_model(), "--random-tokens", "2048", "--json", json, "--data", text});
  const Json result = json_of(json);
  EXPECT_EQ(result["passed"], true);
  EXPECT_EQ(result.size(), 2u);
  ASSERT_GE(result["tests"].size(), 8u);
  for (const Json& test : result["tests"]) {
    EXPECT_EQ(test["passed"], true);
    EXPECT_FALSE(test["detail"].get<std::string>().empty());
    EXPECT_NE(shown.find(test["name"].get<std::string>()), std::string::npos);
    EXPECT_EQ(test.size(), 3u);
  }
  EXPECT_NE(shown.find("by t mod 16"), std::string::npos);
}

TEST_F(Commands, JsonOnStandardOutputComesAfterTheTextAndTakesNothingFromIt) {
  const std::string model = byte_model(), file = folder_ / "all";
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"check", "--random-tokens", "256"}, {"eval", "--data", corpus()}}) {
    std::vector<std::string> all = {words[0], "--quiet", "--model", model};
    all.insert(all.end(), words.begin() + 1, words.end());
    const std::string text = output(all);
    all.insert(all.end(), {"--json", "/proc/self/fd/1"});
    const Outcome outcome = run_harmonic(all, {}, file);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    for (const std::string& both : {read_file(file), output(all)}) {
      EXPECT_EQ(both.substr(0, text.size()), text);
      EXPECT_TRUE(parse_json(both.substr(std::min(text.size(), both.size())), file).is_object());
    }
    std::filesystem::remove(file);
  }
}

TEST_F(Commands, EvalScoresEveryTokenOnceAtAnyLength) {
  const std::string json = folder_ / "eval.json", data = corpus(), model = byte_model();
  output({"eval", "--model", model, "--data", data, "--lengths", "1,2,3,4,5,6,7,64,1K,1M", "--json", json});
  const Json cold = json_of(json);
  EXPECT_EQ(cold["model"], model);
  EXPECT_EQ(cold["certificate"], "passed");
  ASSERT_EQ(cold["results"].size(), 10u);
  for (const Json& result : cold["results"]) {
    // Each document's bytes and its end.
    EXPECT_EQ(result["tokens"], 1704);
    EXPECT_EQ(result["bytes"], 1704);
    EXPECT_EQ(result["state"], "cold");
    EXPECT_EQ(result["bits_per_byte"], result["bits_per_token"]);
    EXPECT_GT(result["bits_per_byte"], 7);
    EXPECT_LT(result["bits_per_byte"], 10);
    EXPECT_EQ(result.size(), 6u);
  }
  EXPECT_EQ(cold["results"][6]["length"], 7);
  EXPECT_EQ(cold["results"][8]["length"], 1000);
  EXPECT_EQ(cold["results"][9]["length"], 1'000'000);
  EXPECT_NE(cold["results"][0]["bits_per_byte"], cold["results"][6]["bits_per_byte"]);

  output({"eval", "--model", model, "--data", data, "--lengths", "1,3,7,64,1000000", "--state", "carry",
          "--json", json});
  const Json carry = json_of(json);
  // With the state carried the windows do not show.
  for (const Json& result : carry["results"])
    EXPECT_EQ(result["bits_per_byte"], carry["results"][0]["bits_per_byte"]) << result["length"];
}

TEST_F(Commands, EvalGivesTheSameBitsWithAnyNumberOfThreads) {
  const std::string model = byte_model(), data = corpus();
  for (const char* state : {"cold", "carry"}) {
    std::vector<std::string> results;
    for (const char* threads : {"1", "2", "3"}) {
      const std::string json = folder_ / "eval.json";
      output({"eval", "--model", model, "--data", data, "--lengths", "5,100,100000", "--state", state,
              "--json", json, "--threads", threads});
      results.push_back(read_file(json));
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
  }
}

TEST_F(Commands, EvalCountsTheBytesOfTheSourceWhateverTheTokens) {
  const std::string model = make_model_folder(folder_ / "bpe", *small_bpe()), json = folder_ / "eval.json";
  const std::string data = folder_.file("text", "if (the count) {\n    return the count;\n  }\n");
  output({"eval", "--model", model, "--data", data, "--json", json});
  const Json result = json_of(json)["results"][0];
  EXPECT_EQ(result["bytes"], 44);  // and the end
  EXPECT_LT(result["tokens"], 30);
  EXPECT_NEAR(result["bits_per_byte"].get<double>() * 44,
              result["bits_per_token"].get<double>() * result["tokens"].get<double>(), 1e-6);
}

TEST_F(Commands, EvalKeepsTextInTheCacheOfTheEnvironment) {
  const std::string cache = folder_ / "cache", model = byte_model();
  for (const char* text : {"one", "another"}) {
    const Outcome outcome = run_harmonic({"eval", "--model", model, "--data", folder_.file(text, text)},
                                         {"HARMONIC_DATA_CACHE=" + cache, "HARMONIC_DATA_CACHE_GB=1e-9"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(cache), {}), 1);
  }
}

TEST_F(Commands, InspectShowsThePapersFormWithItsCounts) {
  const std::string shown = output({"inspect", "paper"});
  EXPECT_EQ(figure(shown, "core, in matrices"), 34 * 256 * 256);
  EXPECT_EQ(figure(shown, "embeddings"), 2 * 50257 * 256);
  EXPECT_EQ(figure(shown, "core, by the paper's account"), 2'234'368);
  EXPECT_EQ(figure(shown, "all"), figure(shown, "embeddings") + figure(shown, "core, in matrices") +
                                      figure(shown, "core, in vectors"));
  // Three states of 512 numbers, two of each of: open block, last vector, held output.
  EXPECT_EQ(figure(shown, "bytes, with the position"), (3 * 512 + 2 * 3 * 256) * 4 + 8);
  EXPECT_EQ(figure(shown, "head"), 50257 * 256);
}

TEST_F(Commands, InspectShowsAFoldersParametersAndTheCostAtEachStride) {
  const std::string shown = output({"inspect", byte_model()});
  const Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  EXPECT_EQ(figure(shown, "all"), model.parameters().count());
  EXPECT_EQ(figure(shown, "bytes, with the position"), model.state_layout().bytes());
  for (size_t i = 0; i < model.parameters().size(); ++i)
    EXPECT_EQ(figure(shown, model.parameters()[i].name + ' '), model.parameters()[i].value.size());
  for (const char* stride : {"at stride 1:", "at stride 4:", "at stride 16:"})
    EXPECT_GT(figure(shown, stride), 0);
}

std::string every_byte() {
  std::string text = "words and  spaces\n\n\xe6\x97\xa5 \xff\xfe it's 1990 ";
  for (int i = 0; i < 2000; ++i) text += static_cast<char>(i * 7919 >> 3);
  return text;
}

TEST_F(Commands, ATrainedTokenizerGivesAnyBytesBack) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "the words that are learned, the words and spaces\n";
  const std::string data = folder_.file("text", text), out = folder_ / "tokenizer";
  EXPECT_EQ(output({"tokenizer", "train", "--data", data, "--vocab-size", "280", "--out", out}), "");
  const std::string info = output({"tokenizer", "info", out});
  EXPECT_EQ(figure(info, "vocabulary"), 280);
  EXPECT_EQ(figure(info, "end of text"), 279);
  for (const std::string& tokenizer : {out, out + "/tokenizer.json", std::string("bytes")}) {
    for (const std::string& content : {every_byte(), text, std::string()}) {
      const std::string ids = output({"tokenizer", "encode", "--tokenizer", tokenizer}, content);
      EXPECT_EQ(output({"tokenizer", "decode", "--tokenizer", tokenizer}, ids), content);
    }
  }
  EXPECT_LT(lines_of(output({"tokenizer", "encode", "--tokenizer", out}, text)).size(), text.size() / 2);
  EXPECT_EQ(output({"tokenizer", "encode", "--tokenizer", "bytes"}, "ab\n"), "97\n98\n10\n");
  EXPECT_EQ(output({"tokenizer", "decode", "--tokenizer", "bytes"}, "97, 98\t10"), "ab\n");
}

TEST_F(Commands, ATokenizerIsNotWrittenOverThatOfAModel) {
  const std::string model = byte_model(), before = read_file(model + "/tokenizer.json");
  const Outcome outcome =
      run_harmonic({"tokenizer", "train", "--data", corpus(), "--vocab-size", "270", "--out", model});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("has a tokenizer of its own"), std::string::npos) << outcome.err;
  EXPECT_EQ(read_file(model + "/tokenizer.json"), before);
}

TEST_F(Commands, ATokenizerLearnedApartIsTheOneThatARunLearns) {
  const std::string data = corpus(), apart = folder_ / "apart", run = folder_ / "run";
  output({"tokenizer", "train", "--data", data, "--vocab-size", "270", "--out", apart});
  output({"train", "--data", data, "--data.tokenizer", "bpe:270", "--model.d_model", "8", "--train.seq_len",
          "8", "--train.steps", "1", "--data.cache", folder_ / "cache", "--out", run});
  EXPECT_EQ(read_file(run + "/tokenizer.json"), read_file(apart + "/tokenizer.json"));
}

TEST_F(Commands, CompressedTextsAreReadAsText) {
  const std::string model = byte_model(), plain = folder_.file("text", "a text of some phases");
  ASSERT_EQ(std::system(("gzip -k " + plain).c_str()), 0);
  const auto phases = [&](const std::string& file) {
    const std::string shown = output({"check", "--model", model, "--random-tokens", "2048", "--data", file});
    const size_t at = shown.find("  0  ");
    EXPECT_NE(at, std::string::npos);
    return shown.substr(at, shown.find(model, at) - at);
  };
  EXPECT_EQ(phases(plain + ".gz"), phases(plain));
  const auto text = [&](const std::string& file) {
    return output({"generate", "--model", model, "--prompt-file", file, "--max-tokens", "5"});
  };
  EXPECT_EQ(text(plain + ".gz"), text(plain));
  const Outcome empty = run_harmonic({"check", "--model", model, "--data", "/dev/null"});
  EXPECT_EQ(empty.status, 1);
  EXPECT_NE(empty.err.find("/dev/null: is empty"), std::string::npos) << empty.err;
}

TEST_F(Commands, ATrainedTokenizerIsTheSameWithAnyNumberOfThreads) {
  const std::string data = corpus();
  std::vector<std::string> files;
  for (const char* threads : {"1", "2", "4"}) {
    const std::string out = folder_ / threads;
    output({"tokenizer", "train", "--data", data, "--vocab-size", "270", "--out", out, "--threads", threads});
    files.push_back(read_file(out + "/tokenizer.json"));
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST_F(Commands, DataPrepareAndInfoShowWhatTheShardsHold) {
  const std::string shards = folder_ / "shards";
  const std::string prepared = output({"data", "prepare", "--data", corpus(), "--out", shards});
  EXPECT_EQ(figure(prepared, "documents"), 3);
  EXPECT_EQ(figure(prepared, "bytes of text"), 1704);  // and an end each
  EXPECT_EQ(figure(prepared, "vocabulary"), 256);
  EXPECT_EQ(output({"data", "info", shards}), prepared);
  // They are as good as the text.
  const std::string from_text = folder_ / "a.json", from_shards = folder_ / "b.json", model = byte_model();
  output({"eval", "--model", model, "--data", folder_ / "corpus", "--json", from_text});
  output({"eval", "--model", model, "--data", shards, "--json", from_shards});
  EXPECT_EQ(read_file(from_text), read_file(from_shards));
}

}  // namespace
}  // namespace harmonic
