// Results that are there already are held to the plan, the settings and the texts.
#include <gtest/gtest.h>

#include "harmonic/experiment/results.h"
#include "tests/experiment_runner_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

TEST_F(Experiments, RefuseResultsMadeWithOtherSettings) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  write_plan(5);
  const Outcome other = run("smoke", "out");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("other settings"), std::string::npos) << other.err;
  const Outcome scale = run("tuned", "out");
  EXPECT_EQ(scale.status, 1);
  EXPECT_NE(scale.err.find("holds the experiment study at scale smoke"), std::string::npos) << scale.err;
}

TEST_F(Experiments, CountOnlyTheRunsOfThePlanAsItIs) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  change_plan("steps = 4", "steps = 6");
  change_plan("seeds = [1, 2]", "seeds = [5]");
  const Outcome outcome = run("smoke", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("wide-64-1: not of the plan as it is now"), std::string::npos) << outcome.err;
  const ExperimentResults experiment = read_results({path("out")})[0];
  for (const RunResults& run : experiment.runs) EXPECT_EQ(run.counts(), run.id.ends_with("-5")) << run.id;
}

TEST_F(Experiments, ChangeNothingWhenTheyAreRefused) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  const std::string described = read_file(path("out") + "/experiment.json");
  change_plan("steps = 4", "steps = 6");
  change_plan("seeds = [1, 2]", "seeds = [5, 1]");
  EXPECT_EQ(run("smoke", "out").status, 1);
  EXPECT_EQ(read_file(path("out") + "/experiment.json"), described);
  EXPECT_FALSE(fs::exists(path("out") + "/runs/wide-64-5"));
}

TEST_F(Experiments, RefuseARunWithoutItsPlan) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  fs::remove(path("out") + "/plans/wide-64-1.toml");
  const Outcome outcome = run("smoke", "out");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("which would tell what it was made with"), std::string::npos) << outcome.err;
}

TEST_F(Experiments, HoldToTheTokenizerAndToTheFilesOfATask) {
  const std::string bpe = path("bpe");
  const auto learn = [&](const char* size) {
    return run_harmonic(
               {"tokenizer", "train", "--data", path("train.txt"), "--vocab-size", size, "--out", bpe})
        .status;
  };
  ASSERT_EQ(learn("262"), 0);
  file("filler.txt", small_text(3000, 7));
  change_plan("[run.data]", "[run.data]\ntokenizer = \"" + bpe + "\"");
  change_plan(
      "states = [\"cold\", \"carry\"]",
      "task = \"recall\"\nlongest_text = 200\ntask_arguments = [\"--distances\", \"16\", \"--pairs\", \"1\", "
      "\"--examples\", \"4\", \"--filler\", \"" +
          path("filler.txt") + "\"]");
  const Outcome first = run("smoke", "out");
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(read_results({path("out")})[0].reference, "accuracy");
  EXPECT_EQ(result("out", "wide-64-1")["tasks"][0]["examples"], 4);
  file("filler.txt", small_text(3000, 8));
  const Outcome again = run("smoke", "out");
  ASSERT_EQ(again.status, 0) << again.err;
  EXPECT_NE(again.err.find("measuring it again"), std::string::npos) << again.err;
  ASSERT_EQ(learn("264"), 0);
  const Outcome other = run("smoke", "out");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("other settings, texts or another tokenizer"), std::string::npos) << other.err;
}

TEST_F(Experiments, RefuseResultsMadeOfOtherTexts) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  file("valid.txt", small_text(3000, 5));
  const Outcome other = run("smoke", "out");
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.err.find("other settings, texts or another tokenizer"), std::string::npos) << other.err;
  file("valid.txt", small_text(3000, 2));
  EXPECT_EQ(run("smoke", "out").status, 0);
}

TEST_F(Experiments, NameWhatIsWrongInAResult) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  const std::string result_file = "out/runs/wide-64-1/result.json", whole = read_file(path(result_file));
  for (const char* damaged :
       {"{}", "[]", R"({"kind":"run","status":5})", R"({"kind":"run","status":"finished"})",
        R"({"kind":"run","status":"finished","results":[]})"}) {
    file(result_file, damaged);
    const Outcome outcome = run("smoke", "out");
    EXPECT_EQ(outcome.status, 1) << damaged << outcome.err;
    EXPECT_NE(outcome.err.find("result.json: "), std::string::npos) << damaged << outcome.err;
    EXPECT_NE(outcome.err.find("expected"), std::string::npos) << damaged << outcome.err;
  }
  file(result_file, whole);
  for (const char* damaged : {"[]", R"({"name":5})"}) {
    file("out/experiment.json", damaged);
    const Outcome outcome = run("smoke", "out");
    EXPECT_EQ(outcome.status, 1) << damaged << outcome.err;
    EXPECT_NE(outcome.err.find("experiment.json: "), std::string::npos) << damaged << outcome.err;
  }
}

TEST_F(Experiments, KeepResultsOfBeforeASettingWasThere) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  const std::string plan = path("out") + "/plans/wide-64-1.toml";
  std::string text = read_file(plan);
  for (const char* setting : {"share_cells = false\n", "tie_embeddings = false\n"}) {
    const size_t at = text.find(setting);
    ASSERT_NE(at, std::string::npos) << text;
    text.erase(at, std::string_view(setting).size());
  }
  file("out/plans/wide-64-1.toml", text);
  const Json before = result("out", "wide-64-1");
  const Outcome outcome = run("smoke", "out");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(result("out", "wide-64-1"), before);
  // Another value than the default is another setting.
  const size_t at = text.find("prediction_error = true");
  ASSERT_NE(at, std::string::npos) << text;
  text.replace(at, std::string_view("prediction_error = true").size(), "prediction_error = false");
  file("out/plans/wide-64-1.toml", text);
  EXPECT_EQ(run("smoke", "out").status, 1);
}

}  // namespace
}  // namespace harmonic
