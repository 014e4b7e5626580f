#include "harmonic/train/train_config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <regex>
#include <sstream>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {
namespace {

std::string error_of(const auto& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::usage) << error.what();
    return error.what();
  }
  return "no error";
}
RunConfig read(std::string_view toml) { return parse_run_config(toml, "run.toml"); }
std::string verdict(std::string_view toml) {
  return error_of([&] { read(toml); });
}

TEST(RunConfig, AnEmptyFileIsTheDefaults) { EXPECT_EQ(read("").to_toml(), RunConfig().to_toml()); }

TEST(RunConfig, ReadsTheDocumentedForm) {
  const RunConfig c = read(R"(
[model]
mixer = ["harmonic", "attention"]
n_layers = 2
[model.harmonic]
cell = ["decay", "selective", "selective"]
taus = [4, 32.5, 128]
[data]
train = ["a.txt", "corpus/"]
valid = "b.txt"
[train]
tokens = "1.5G"
lr = 3e-3
steps = 2e3
)");
  EXPECT_EQ(c.model.mixer, (std::vector<std::string>{"harmonic", "attention"}));
  EXPECT_EQ(c.model.harmonic.taus, (std::vector<double>{4, 32.5, 128}));
  EXPECT_EQ(c.data.valid, std::vector<std::string>{"b.txt"});
  EXPECT_EQ(c.train.tokens, 1'500'000'000);
  EXPECT_EQ(c.train.total_steps(), 2000);
}

TEST(RunConfig, APresetComesBeforeTheOtherKeysWhereverItStands) {
  const RunConfig c = read("[model.harmonic]\nconv_width = 3\n[model]\nn_layers = 2\npreset = \"paper\"\n");
  EXPECT_EQ(c.model.vocab_size, 50257);
  EXPECT_EQ(c.model.harmonic.conv_width, 3);
  EXPECT_EQ(c.model.n_layers, 2);
  EXPECT_EQ(verdict("[model]\npreset = \"papr\""),
            "run.toml:2:1: model.preset = \"papr\": expected one of paper, paper-transformer, paper-mamba, "
            "equal-core-transformer");
}

TEST(RunConfig, UnknownSectionsAndKeysNameTheNearest) {
  EXPECT_EQ(
      verdict("[trian]\nlr = 1"),
      "run.toml:1:1: unknown section [trian]; expected [model], [data] or [train]; did you mean \"train\"?");
  EXPECT_EQ(verdict("[train]\n\nlrr = 1"),
            "run.toml:3:1: unknown key \"train.lrr\"; did you mean \"train.lr\"?");
  EXPECT_TRUE(verdict("lr = 1").starts_with("run.toml:1:1: unknown section"));
  EXPECT_TRUE(verdict("model = 1").starts_with("run.toml:1:1: [model] is a section"));
}

TEST(RunConfig, EveryImpossibleSettingIsRefusedByItsKey) {
  const std::pair<const char*, const char*> bad[] = {
      {"lr = -1", "train.lr"},
      {"lr = nan", "train.lr"},
      {"lr = inf", "train.lr"},
      {"lr = 0", "train.lr"},
      {"betas = 0.9", "train.betas"},
      {"betas = [0.9, 1.0]", "train.betas"},
      {"batch_size = 8\naccumulation = 3", "train.accumulation"},
      {"carry_state = true", "train.carry_state"},
      {"tokens = 0", "train.tokens"},
      {"tokens = \"20X\"", "train.tokens"},
      {"tokens = -5", "train.tokens"},
      {"warmup = 1.5", "train.warmup"},
      {"optimizer = \"sgd\"", "train.optimizer"},
      {"seq_len = 0", "train.seq_len"},
      {"seed = -1", "train.seed"},
  };
  for (const auto& [text, key] : bad) {
    const std::string error = verdict(std::string("[train]\n") + text);
    EXPECT_NE(error.find(key), std::string::npos) << text << ": " << error;
  }
  for (const char* tokenizer : {"bpe:10", "bpe:256", "bpe:16777217", "bpe:-300", "bpe:", "bpe:3e2"}) {
    const std::string error = verdict(fmt::format("[data]\ntokenizer = \"{}\"", tokenizer));
    EXPECT_NE(error.find("data.tokenizer"), std::string::npos) << tokenizer << ": " << error;
  }
}

TEST(RunConfig, ItsTextReadsBack) {
  RunConfig c = read("[train]\nlr = 0.1\n[data]\ntrain = ['a \"b\"', 'c']\n[model]\npreset = \"paper\"");
  c.model.vocab_size = 256;
  c.model.eot_token_id = 0;
  const RunConfig back = parse_run_config(c.to_toml(), "again");
  EXPECT_EQ(back.to_toml(), c.to_toml());
  RunConfig other = c;
  other.train.seed = 2;
  EXPECT_NE(other.to_toml(), c.to_toml());
}

TEST(RunConfig, AMisspeltVariableOfTheEnvironmentIsAnError) {
  ::setenv("HARMONIC_TRAIN_LRR", "1", 1);
  const std::string error = error_of([] { load_run_config("", {}); });
  ::unsetenv("HARMONIC_TRAIN_LRR");
  EXPECT_NE(error.find("did you mean \"HARMONIC_TRAIN_LR\"?"), std::string::npos) << error;
}

TEST(TrainConfig, TheLastStepIsTheOneThatReachesTheBudget) {
  TrainConfig c;
  c.seq_len = 10;
  c.batch_size = 10;
  c.tokens = 1000;
  EXPECT_EQ(c.total_steps(), 10);
  c.tokens = 1001;
  EXPECT_EQ(c.total_steps(), 11);
  c.tokens = 1;
  EXPECT_EQ(c.total_steps(), 1);
  c.tokens = INT64_MAX;
  EXPECT_EQ(c.total_steps(), INT64_MAX / 100 + 1);
}

// The tables of docs/training.md: "### [model.harmonic]", then rows "| `key` | `default` | meaning |".
std::map<std::string, std::string> documented_defaults() {
  std::istringstream lines(read_file(HARMONIC_SOURCE_DIR "/docs/training.md"));
  const std::regex heading(R"(### \[(\w+(\.\w+)?)\])"), row(R"(\| `(\w+)` \| `(.*?)` \| .+ \|)");
  std::map<std::string, std::string> defaults;
  std::string section;
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind('#', 0) == 0) section = std::regex_match(line, match, heading) ? match[1].str() : "";
    if (!section.empty() && std::regex_match(line, match, row))
      defaults[section + "." + match[1].str()] = match[2].str();
  }
  return defaults;
}

TEST(RunConfig, TheDocumentationNamesEveryKeyWithItsDefault) {
  std::map<std::string, std::string> fields;
  RunConfig config;
  for (const Field& field : config.fields()) fields[field.key] = inline_text(value_of(field));
  EXPECT_EQ(documented_defaults(), fields);
}

}  // namespace
}  // namespace harmonic
