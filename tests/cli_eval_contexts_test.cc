// eval --contexts with another model beside it, and which evaluations curves sets beside each other.
#include <gtest/gtest.h>

#include <cmath>

#include "harmonic/base/json.h"
#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

class EvalContexts : public ::testing::Test {
 protected:
  Outcome evaluate(const std::string& model, const std::string& text, std::vector<std::string> more) const {
    more.insert(more.begin(), {"eval", "--model", model, "--data", text});
    return run_harmonic(more, {"HARMONIC_CACHE=" + (folder_ / "cache")});
  }
  std::string json_of(const std::string& model, const std::string& text, const std::string& contexts,
                      const std::string& targets = "8", const std::string& groups = "4") {
    const std::string json = folder_ / std::to_string(++files_);
    const Outcome outcome = evaluate(
        model, text, {"--contexts", contexts, "--targets", targets, "--groups", groups, "--json", json});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json;
  }

  TemporaryFolder folder_;
  int files_ = 0;
  std::string a_ = make_model_folder(folder_ / "a", *make_byte_tokenizer(), 1);
  std::string b_ = make_model_folder(folder_ / "b", *make_byte_tokenizer(), 2);
  std::string text_ = folder_.file("text", std::string(500, 'x') + "abcdefgh" + std::string(300, 'y'));
};

TEST_F(EvalContexts, TheOtherModelIsCertifiedToo) {
  const std::string json = folder_ / "json";
  const Outcome outcome = evaluate(
      a_, text_, {"--contexts", "32", "--targets", "8", "--groups", "4", "--against", b_, "--json", json});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("certificate (short form) of " + b_ + ": passed"), std::string::npos)
      << outcome.out;
  const Json found = parse_json(read_file(json), json);
  EXPECT_EQ(found.at("against"), b_);
  EXPECT_EQ(found.at("against_certificate"), "passed");
  EXPECT_GT(found.at("results").at(0).at("against_bits_per_token"), 0);
}

TEST_F(EvalContexts, AnotherModelThatIsDamagedIsAnError) {
  LoadedModel loaded = load_model_folder(b_, cpu_backend());
  loaded.model->parameters().find("head.weight")->value.as<float>()[5] = std::nanf("");
  save_model_folder(b_, *loaded.model, *loaded.tokenizer);
  const std::string json = folder_ / "json";
  const Outcome outcome =
      evaluate(a_, text_, {"--contexts", "32", "--targets", "8", "--against", b_, "--json", json});
  EXPECT_EQ(outcome.status, 3) << outcome.out;
  EXPECT_NE(outcome.err.find("error: " + b_ + ": its losses are not finite"), std::string::npos)
      << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(json));
}

TEST_F(EvalContexts, CurvesAreOfTheSameTargets) {
  const std::string first = json_of(a_, text_, "32,128");
  const Json targets = parse_json(read_file(first), first).at("targets");
  EXPECT_EQ(targets.at("longest"), 128);
  EXPECT_EQ(targets.at("group"), 8);
  EXPECT_EQ(targets.at("groups"), 4);
  EXPECT_EQ(targets.at("text_sha256").get<std::string>().size(), 64u);
  const auto curves = [&](const std::string& second) {
    return run_harmonic({"curves", "a=" + first, "b=" + second});
  };
  EXPECT_EQ(curves(json_of(b_, text_, "128,64,32")).status, 0);
  const auto expect_refused = [&](const std::string& second, const std::string& why) {
    const Outcome outcome = curves(second);
    EXPECT_EQ(outcome.status, 1) << outcome.out;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(second + ": of other targets than a: " + why), std::string::npos)
        << outcome.err;
  };
  expect_refused(json_of(b_, text_, "32"), "a longest context of 32 instead of 128");
  expect_refused(json_of(b_, text_, "32,128", "16", "2"), "groups of 16 instead of 8");
  expect_refused(json_of(b_, text_, "32,128", "8", "3"), "a number of groups of 3 instead of 4");
  expect_refused(json_of(b_, folder_.file("other", std::string(808, 'z')), "32,128"), "other texts");
  const Outcome old = curves(
      folder_.file("old.json", R"({"results": [{"context": 32, "targets": 32, "bits_per_token": 1.5}]})"));
  EXPECT_EQ(old.status, 1);
  EXPECT_NE(old.err.find("does not say which targets it is of"), std::string::npos) << old.err;
}

TEST_F(EvalContexts, AFolderThatJsonCannotNameIsRefusedBeforeAnyWork) {
  const std::string odd = folder_ / "m\xff", json = folder_ / "json";
  std::filesystem::copy(a_, odd);
  for (const auto& [model, other] : {std::pair(odd, b_), {a_, odd}}) {
    const Outcome outcome =
        evaluate(model, text_, {"--contexts", "32", "--targets", "8", "--against", other, "--json", json});
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("JSON has no text but UTF-8"), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(evaluate(odd, text_, {"--lengths", "64"}).status, 0) << "without --json it has any name";
}

TEST_F(EvalContexts, AContextThatCannotBeIsRefusedBeforeAnyIsComputed) {
  const std::string limited =
      make_model_folder(folder_ / "limited", *make_byte_tokenizer(), 1, [](ModelConfig& config) {
        config.mixer = {"attention"};
        config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
      });
  for (const auto& [model, contexts] : {std::pair(limited, "32,128"), std::pair(a_, "32,5000")}) {
    const Outcome outcome = evaluate(model, text_, {"--contexts", contexts, "--targets", "8"});
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(EvalContexts, AFlagOfTheOtherMeasureIsAnError) {
  for (const std::vector<std::string>& flag : std::vector<std::vector<std::string>>{
           {"--targets", "8"}, {"--groups", "4"}, {"--against", b_}, {"--beyond-limit"}}) {
    const Outcome outcome = evaluate(a_, text_, flag);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_NE(outcome.err.find(flag[0] + " belongs to --contexts"), std::string::npos) << outcome.err;
  }
  for (std::vector<std::string> flag : std::vector<std::vector<std::string>>{
           {"--lengths", "8"}, {"--state", "carry"}, {"--max-tokens", "8"}, {"--by-context"}}) {
    const std::string name = flag[0];
    flag.insert(flag.end(), {"--contexts", "32"});
    const Outcome outcome = evaluate(a_, text_, flag);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_NE(outcome.err.find(name + " has no meaning with --contexts"), std::string::npos) << outcome.err;
  }
}

}  // namespace
}  // namespace harmonic
