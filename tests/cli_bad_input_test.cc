// Whatever is wrong with what a command is given: one line that names it, exit 1 or 2, and nothing lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <sstream>

#include "harmonic/base/divergence.h"
#include "harmonic/model/weights.h"
#include "tests/cli_process.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

void expect_error(const Outcome& outcome, int status, const std::vector<std::string>& parts) {
  EXPECT_EQ(outcome.status, status) << outcome.err;
  EXPECT_TRUE(outcome.err.starts_with("harmonic: error: ")) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_FALSE(has(outcome.err, "internal error")) << outcome.err;
  for (const std::string& part : parts) EXPECT_TRUE(has(outcome.err, part)) << part << " in: " << outcome.err;
}

class BadInput : public ::testing::Test {
 protected:
  BadInput()
      : model_(make_model_folder(folder_ / "model", *make_byte_tokenizer())),
        text_(folder_.file("text", "a text to score")) {}

  std::vector<std::vector<std::string>> commands_of(const std::string& model) const {
    return {{"score", "--model", model},
            {"generate", "--model", model, "--max-tokens", "3"},
            {"eval", "--model", model, "--data", text_},
            {"check", "--model", model, "--random-tokens", "256"}};
  }
  // Every command that loads the model names `part` and its cure, and changes nothing.
  void expect_all_refuse(const std::vector<std::string>& parts) const {
    const auto before = folder_.snapshot();
    for (const auto& words : commands_of(model_)) {
      SCOPED_TRACE(words[0]);
      const Outcome outcome = run_with_input(words, "a text");
      expect_error(outcome, 1, parts);
      EXPECT_EQ(outcome.out, "");
    }
    EXPECT_EQ(folder_.snapshot(), before);
  }
  std::string path(const std::string& name) const { return model_ + '/' + name; }
  void replace_in_config(const std::string& from, const std::string& to) const {
    std::string config = read_file(path("config.json"));
    const size_t at = config.find(from);
    ASSERT_NE(at, std::string::npos) << config;
    write_file(path("config.json"), config.replace(at, from.size(), to));
  }

  TemporaryFolder folder_;
  std::string model_, text_;
};

const std::vector<std::string> kModelFiles = {"config.json", "model.safetensors", "tokenizer.json"};

TEST_F(BadInput, AModelFolderThatIsNotThereOrIsAFile) {
  model_ = folder_ / "nothing";
  expect_all_refuse({model_, "no such folder", "expected a model folder"});
  model_ = text_;
  expect_all_refuse({model_, "is a file", "expected a model folder"});
}

TEST_F(BadInput, AModelFileThatIsMissing) {
  for (const std::string& name : kModelFiles) {
    fs::rename(path(name), folder_ / "aside");
    expect_all_refuse({model_, name});
    fs::rename(folder_ / "aside", path(name));
  }
}

TEST_F(BadInput, AModelFileThatIsEmptyCutShortOrBinary) {
  for (const std::string& name : kModelFiles) {
    const std::string good = read_file(path(name));
    std::string binary;
    for (int i = 0; i < 5000; ++i) binary += static_cast<char>(i * 7919 >> 4);
    for (const std::string& bad : {std::string(), good.substr(0, good.size() / 2),
                                   good.substr(0, good.size() - 5), binary, std::string(5000, '\0')}) {
      write_file(path(name), bad);
      SCOPED_TRACE(name + " of " + std::to_string(bad.size()) + " bytes");
      expect_all_refuse({path(name)});
    }
    write_file(path(name), good);
  }
}

TEST_F(BadInput, ADirectoryWhereAModelFileBelongs) {
  for (const std::string& name : kModelFiles) {
    fs::rename(path(name), folder_ / "aside");
    fs::create_directory(path(name));
    expect_all_refuse({path(name)});
    fs::remove(path(name));
    fs::rename(folder_ / "aside", path(name));
  }
}

TEST_F(BadInput, AnUnreadableModelFile) {
  const fs::perms open = fs::perms::group_exec | fs::perms::others_exec;
  for (const std::string& folder : {folder_ / "", model_})
    fs::permissions(folder, open, fs::perm_options::add);
  for (const std::string& name : kModelFiles) {
    fs::permissions(path(name), fs::perms::none);
    HarmonicProcess process(commands_of(model_)[0], true);
    process.close_input();
    const Outcome outcome = process.wait();
    if (outcome.status >= 126) GTEST_SKIP() << "the program cannot be run without the superuser's rights";
    expect_error(outcome, 1, {path(name), "ermission denied"});
    fs::permissions(path(name), fs::perms::owner_read | fs::perms::group_read | fs::perms::others_read);
  }
}

TEST_F(BadInput, AConfigThatSaysWhatCannotBe) {
  const struct {
    std::string from, to;
    std::vector<std::string> named;
  } cases[] = {
      {"\"d_model\"", "\"d_modle\"", {"d_modle", "did you mean"}},
      {"\"conv_width\"", "\"conv_widht\"", {"conv_widht", "did you mean"}},
      {"\"d_model\": 8", "\"d_model\": -8", {"d_model", "-8"}},
      {"\"d_model\": 8", "\"d_model\": 8.5", {"d_model", "8.5"}},
      {"\"d_model\": 8", "\"d_model\": \"8\"", {"d_model"}},
      {"\"d_model\": 8", "\"d_model\": 99999999999999999999", {"d_model"}},
      {"\"d_model\": 8", "\"d_model\": null", {"d_model"}},
      {"\"d_model\": 8", "\"d_model\": NaN", {}},
      {"\"cell\": \"decay\"", "\"cell\": \"deacy\"", {"cell", "decay", "selective"}},
      {"\"model_type\": \"harmonic\"", "\"model_type\": \"llama\"", {"llama", "harmonic convert"}},
      {"\"model_type\"", "\"model_typ\"", {"model_type", "missing"}},
      {"\"vocab_size\": 256,", "", {"vocab_size", "missing"}},
      {"\"eot_token_id\": 0", "\"eot_token_id\": 256", {"eot_token_id", "256"}},
  };
  const std::string good = read_file(path("config.json"));
  for (const auto& one : cases) {
    SCOPED_TRACE(one.to);
    replace_in_config(one.from, one.to);
    std::vector<std::string> parts = one.named;
    parts.push_back(path("config.json"));
    const auto before = folder_.snapshot();
    const Outcome outcome = run_with_input(commands_of(model_)[0], "a text");
    EXPECT_TRUE(outcome.status == 1 || outcome.status == 2);
    expect_error(outcome, outcome.status, parts);
    EXPECT_EQ(folder_.snapshot(), before);
    write_file(path("config.json"), good);
  }
}

TEST_F(BadInput, SizesThatDoNotDivide) {
  const std::string good = read_file(path("config.json"));
  std::string compact;  // the list may be written over several lines
  for (const char c : good)
    if (c != ' ' && c != '\n') compact += c;
  const size_t at = compact.find("\"strides\":[1,4,16]");
  ASSERT_NE(at, std::string::npos) << compact;
  write_file(path("config.json"), std::string(compact).replace(at, 18, "\"strides\":[1,4,10]"));
  expect_all_refuse({path("config.json"), "strides", "4 does not divide 10"});
}

TEST_F(BadInput, AConfigOfAnotherModelThanTheWeights) {
  replace_in_config("\"d_model\": 8", "\"d_model\": 12");
  expect_all_refuse({path("model.safetensors"), "expected shape", "config.json describes another model"});
}

TEST_F(BadInput, AConfigOfMoreMemoryThanThereIs) {
  replace_in_config("\"d_model\": 8", "\"d_model\": 1048576");
  expect_all_refuse({"out of memory"});
}

TEST_F(BadInput, ATokenizerThatDoesNotMatchTheModel) {
  write_file(path("tokenizer.json"), small_bpe()->to_json());
  expect_all_refuse({path("tokenizer.json"), "256", "do not belong together"});
  // One of the same size and end, with other tokens.
  const std::string other = make_model_folder(folder_ / "other", *small_bpe());
  std::string json = read_file(other + "/tokenizer.json");
  ThreadPool pool(1);
  BpeTrainer trainer(pool);
  std::string text;
  for (int i = 0; i < 99; ++i)
    text += " completely other letters for vocabularies, numbers: 5671, 5671, zzzz qqqq";
  trainer.add(text);
  write_file(other + "/tokenizer.json", trainer.train(small_bpe()->vocab_size())->to_json());
  model_ = other;
  expect_all_refuse({other + "/tokenizer.json", "another tokenizer"});
}

TEST_F(BadInput, DamagedWeights) {
  const std::string good = read_file(path("model.safetensors"));
  const struct {
    std::string from, to, named;
  } cases[] = {
      {"\"head.weight\"", "\"haed.weight\"", "head.weight"},
      {"[256,8]", "[8,256]", "embed.weight"},
      {"\"F32\"", "\"I32\"", "I32"},
      {"\"F32\"", "\"F31\"", "F31"},
      {"\"data_offsets\":[0,", "\"data_offsets\":[4,", "embed.weight"},
  };
  for (const auto& one : cases) {
    std::string bad = good;
    const size_t at = bad.find(one.from);
    ASSERT_NE(at, std::string::npos) << one.from;
    write_file(path("model.safetensors"), bad.replace(at, one.from.size(), one.to));
    SCOPED_TRACE(one.to);
    expect_all_refuse({path("model.safetensors"), one.named});
  }
}

TEST_F(BadInput, WeightsThatAreNotNumbers) {
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  initialise_for_test(model, 1);
  model.parameters().find("head.weight")->value.as<float>()[17] = std::numeric_limits<float>::quiet_NaN();
  save_model_folder(model_, model, *make_byte_tokenizer());
  for (const auto& words : commands_of(model_)) {
    SCOPED_TRACE(words[0]);
    const Outcome outcome = run_with_input(words, "a text");
    const bool measures = words[0] == "eval" || words[0] == "score";
    EXPECT_EQ(outcome.status, measures ? kDivergedStatus : 1) << outcome.out << outcome.err;
    EXPECT_TRUE(has(outcome.err, "not finite")) << outcome.err;
  }
}

TEST_F(BadInput, FlagsThatMakeNoSense) {
  const std::vector<std::vector<std::string>> calls = {
      {"generate", "--max-tokens", "-1"},
      {"generate", "--max-tokens", "many"},
      {"generate", "--temperature", "-1"},
      {"generate", "--temperature", "nan"},
      {"generate", "--temperature", "inf"},
      {"generate", "--top-p", "1.5"},
      {"generate", "--top-p", "nan"},
      {"generate", "--top-k", "-2"},
      {"generate", "--min-p", "-0.1"},
      {"generate", "--seed", "-1"},
      {"generate", "--seed", "1e400"},
      {"generate", "--prompt"},
      {"generate", "--prompt", "a", "-"},
      {"generate", "a prompt without its flag"},
      {"generate", "--prompt", "a", "--prompt-file", "b"},
      {"score", "--by", "word"},
      {"score", "surplus"},
      {"check", "--random-tokens", "-5"},
      {"check", "--random-tokens", "nan"},
      {"check", "--seed", "-1"},
      {"eval", "--data", text_, "--lengths", "0"},
      {"eval", "--data", text_, "--lengths", "-3"},
      {"eval", "--data", text_, "--lengths", "nan"},
      {"eval", "--data", text_, "--state", "warm"},
      {"eval", "--data", text_, "--max-tokens", "-1"},
      {"eval", "--data", text_, "--format", "docx"},
      {"eval"},
  };
  for (std::vector<std::string> words : calls) {
    words.insert(words.begin() + 1, {"--model", model_});
    SCOPED_TRACE(words.back());
    const Outcome outcome = run_with_input(words, "a text");
    expect_error(outcome, 2, {});
    EXPECT_EQ(outcome.out, "");
  }
  expect_error(run_with_input({"score"}, "a text"), 2, {"--model"});
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"tokenizer", "train", "--data", text_, "--out", folder_ / "t", "--vocab-size", "256"},
           {"tokenizer", "train", "--data", text_, "--out", folder_ / "t", "--vocab-size", "-1"},
           {"tokenizer", "train", "--data", text_, "--out", folder_ / "t", "--vocab-size", "nan"},
           {"tokenizer", "trian"},
           {"data", "prepare", "--data", text_},
           {"inspect"},
           {"inspect", "a", "b"}})
    expect_error(run_with_input(words, ""), 2, {});
}

TEST_F(BadInput, AnEmptyPathIsRefusedByTheOptionsName) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"train", "--data", text_, "--out", ""},
                                             {"train", "--out", folder_ / "out", "--data", ""},
                                             {"tokenizer", "train", "--data", text_, "--out", ""},
                                             {"data", "prepare", "--data", text_, "--out", ""},
                                             {"generate", "--model", model_, "--state-out", ""},
                                             {"eval", "--model", model_, "--data", text_, "--json", ""},
                                             {"score", "--model", ""}})
    expect_error(run_with_input(words, ""), 2, {words[words.size() - 2] + " is empty: "});
}

// Every option of every command that takes a list, as --help shows them: but a service's, which may be none
// at all, and settings, which their own checks are for.
TEST(ListOptions, RefuseToBeEmptyOrToHaveAnEmptyItem) {
  const auto words_of = [](const std::string& text) {
    std::vector<std::string> words;
    std::istringstream stream(text);
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
  };
  // What the command says, once it has something for everything that it cannot do without.
  const auto error_of = [](std::vector<std::string> command, const std::string& flag,
                           const std::string& value) {
    for (;;) {
      std::vector<std::string> words = command;
      words.insert(words.end(), {flag, value});
      const Outcome outcome = run_with_input(words, "");
      const size_t missing = outcome.err.find(" is missing: ");
      if (missing == std::string::npos) {
        expect_error(outcome, 2, {});
        return outcome.err;
      }
      const size_t begin = std::string_view("harmonic: error: ").size();
      const std::string name = outcome.err.substr(begin, missing - begin);
      if (name.starts_with("--")) command.push_back(name);
      command.emplace_back("x");
    }
  };
  int64_t options = 0;
  for (const std::string& row : lines_of(run_harmonic({"--help"}).out)) {
    if (!row.starts_with("  ") || row.starts_with("  serve ")) continue;
    const std::vector<std::string> command = words_of(row.substr(0, 22));
    std::vector<std::string> help = command;
    help.emplace_back("--help");
    for (const std::string& line : lines_of(run_harmonic(help).out)) {
      const std::vector<std::string> words = words_of(line);
      if (words.size() < 2 || !words[0].starts_with("--") || has(words[0], ".") ||
          !words[1].ends_with(",..."))
        continue;
      ++options;
      for (const std::string value : {"", " ", "8,", ",8", "8,,16"}) {
        const std::string error = error_of(command, words[0], value);
        EXPECT_TRUE(has(error, "error: " + words[0]) && (has(error, "expected ") || has(error, "is empty: ")))
            << error;
      }
    }
  }
  EXPECT_GT(options, 15);
}

TEST_F(BadInput, TextsThatCannotBeRead) {
  const std::string missing = folder_ / "missing.txt", empty = folder_.file("empty.txt", "");
  const std::string out = folder_ / "out";
  for (const std::string& data : {missing, empty}) {
    expect_error(run_with_input({"eval", "--model", model_, "--data", data}, ""), 1, {data});
    expect_error(run_with_input({"tokenizer", "train", "--data", data, "--out", out}, ""), 1, {data});
    expect_error(run_with_input({"data", "prepare", "--data", data, "--out", out}, ""), 1, {data});
  }
  expect_error(run_with_input({"generate", "--model", model_, "--prompt-file", missing}, ""), 1, {missing});
  expect_error(run_with_input({"generate", "--model", model_, "--prompt-file", model_}, ""), 1,
               {model_, "directory"});
  expect_error(run_with_input({"check", "--model", model_, "--data", missing}, ""), 1, {missing});
}

TEST_F(BadInput, ResultsThatCannotBeWrittenAreErrorsBeforeTheWork) {
  for (const std::string& place : {model_, folder_ / "nowhere/file"}) {
    const auto before = folder_.snapshot();
    for (const std::vector<std::string>& words :
         std::vector<std::vector<std::string>>{{"generate", "--model", model_, "--state-out", place},
                                               {"eval", "--model", model_, "--data", text_, "--json", place},
                                               {"check", "--model", model_, "--json", place}}) {
      const Outcome outcome = run_with_input(words, "");
      expect_error(outcome, 1, {place});
      EXPECT_EQ(outcome.out, "") << words[0];
    }
    EXPECT_EQ(folder_.snapshot(), before);
  }
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"generate", "--model", model_, "--max-tokens", "3"},
                                             {"eval", "--quiet", "--model", model_, "--data", text_},
                                             {"check", "--model", model_, "--random-tokens", "256"},
                                             {"inspect", model_}})
    expect_error(run_harmonic(words, {}, "/dev/full"), 1, {"standard output"});
}

TEST_F(BadInput, StatesThatAreNoStatesOfThisModel) {
  const std::string state = folder_ / "state",
                    other = make_model_folder(folder_ / "other", *make_byte_tokenizer(), 2);
  ASSERT_EQ(
      run_with_input({"generate", "--model", other, "--max-tokens", "3", "--state-out", state}, "").status,
      0);
  expect_error(run_with_input({"generate", "--model", model_, "--state-in", state}, ""), 1,
               {state, "another model"});
  expect_error(run_with_input({"generate", "--model", model_, "--state-in", text_}, ""), 1, {text_});
  expect_error(run_with_input({"generate", "--model", model_, "--state-in", folder_ / "no"}, ""), 1,
               {folder_ / "no"});
}

TEST_F(BadInput, TokenIdsThatAreNone) {
  for (const char* input : {"x", "97 x", "12abc", "256", "-1", "99999999999999999999", "1.5", "1e3"}) {
    const Outcome outcome = run_with_input({"tokenizer", "decode", "--tokenizer", "bytes"}, input);
    SCOPED_TRACE(input);
    expect_error(outcome, 1, {});
  }
  expect_error(run_with_input({"tokenizer", "info", folder_ / "no"}, ""), 1,
               {folder_ / "no", "no such tokenizer"});
  expect_error(run_with_input({"tokenizer", "info", folder_ / ""}, ""), 1, {"holds no tokenizer"});
  expect_error(run_with_input({"data", "info", text_}, ""), 1, {text_});
  expect_error(run_with_input({"data", "info", model_}, ""), 1, {model_});
}

TEST_F(BadInput, InspectNamesWhatIsThereInstead) {
  expect_error(run_with_input({"inspect", folder_ / "no"}, ""), 1, {"no such model folder", "paper"});
  expect_error(run_with_input({"inspect", "papr"}, ""), 1, {"did you mean \"paper\""});
  expect_error(run_with_input({"inspect", text_}, ""), 1, {text_});
  expect_error(run_with_input({"inspect", folder_ / ""}, ""), 1, {"config.json"});
}

}  // namespace
}  // namespace harmonic
