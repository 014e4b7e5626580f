// Experiments as they run.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "harmonic/base/file_lock.h"
#include "harmonic/experiment/results.h"
#include "tests/experiment_runner_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

TEST_F(Experiments, ChooseOnHeldOutTextsAndMeasureOnTestTexts) {
  file("test.txt", small_text(2000, 3));
  ASSERT_EQ(run("tuned", "out").status, 0);
  const Json before = result("out", "wide-64-3"), chosen = result("out", "tune-wide-64-lr1");
  std::vector<std::string> tested = words("tuned", "out");
  tested.insert(tested.end(), {"--test", path("test.txt")});
  const Outcome outcome = run_harmonic(tested);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(result("out", "tune-wide-64-lr1"), chosen);
  const Json after = result("out", "wide-64-3");
  EXPECT_EQ(after["steps"], before["steps"]);
  EXPECT_LT(after["results"][0]["bytes"], before["results"][0]["bytes"]);
  EXPECT_EQ(read_results({path("out")})[0].measured_on, "test.txt");
}

TEST_F(Experiments, LeaveAResultForEveryRun) {
  const Outcome outcome = run("smoke", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const fs::path described = fs::path(path("out")) / "experiment.json";
  const Json experiment = parse_json(read_file(described), described.string());
  EXPECT_EQ(experiment["title"], "Two widths");
  EXPECT_EQ(experiment["pairs"], Json::parse(R"([["wide","narrow"]])"));
  EXPECT_EQ(experiment["machine"]["threads"], 1);
  for (const char* id : {"wide-64-1", "narrow-64-1", "wide-64-2", "narrow-64-2"}) {
    const Json found = result("out", id);
    EXPECT_EQ(found["status"], "finished");
    EXPECT_EQ(found["certificate"], "passed");
    EXPECT_EQ(found["steps"], 4);
    EXPECT_EQ(found["train_tokens"], 4 * 256);
    ASSERT_EQ(found["results"].size(), 2u);
    EXPECT_EQ(found["results"][0]["state"], "cold");
    EXPECT_EQ(found["results"][1]["state"], "carry");
    // The whole held-out text and its end.
    EXPECT_EQ(found["results"][0]["bytes"], 3001);
    EXPECT_GT(found["results"][0]["bits_per_byte"], 1);
    EXPECT_GT(found["tokens_per_second"], 0);
    EXPECT_GT(found["core_parameters"], 0);
    EXPECT_EQ(found["device"], "cpu");
    EXPECT_NE(found["processor"], "");
    EXPECT_GT(fs::file_size(path("out") + "/runs/" + id + "/sample.txt"), 100u);
    EXPECT_TRUE(fs::exists(path("out") + "/runs/" + id + "/model.safetensors"));
  }
  EXPECT_EQ(result("out", "wide-64-2")["axes"],
            Json::parse(R"({"variant":"wide","length":"64","seed":"2","lr_factor":"1"})"));
  // Equal seeds see the same data in the same order: what differs between them is the seed.
  EXPECT_NE(result("out", "wide-64-1")["results"], result("out", "wide-64-2")["results"]);
}

TEST_F(Experiments, DoNotRunAgainWhatIsFinished) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  const auto written = [&] { return fs::last_write_time(path("out") + "/runs/wide-64-1/model.safetensors"); };
  const auto before = written();
  const Json first = result("out", "wide-64-1");
  fs::remove(path("out") + "/runs/narrow-64-2/result.json");
  fs::remove_all(path("out") + "/runs/narrow-64-2");
  ASSERT_EQ(run("smoke", "out").status, 0);
  EXPECT_EQ(written(), before);
  EXPECT_EQ(result("out", "wide-64-1"), first);
  EXPECT_EQ(result("out", "narrow-64-2")["status"], "finished");
}

TEST_F(Experiments, GiveTheSameResultsSideBySide) {
  ASSERT_EQ(run("smoke", "one").status, 0);
  std::vector<std::string> together = words("smoke", "together");
  together.insert(together.end(), {"--jobs", "3"});
  const Outcome outcome = run_harmonic(together);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* id : {"wide-64-1", "narrow-64-1", "wide-64-2", "narrow-64-2"}) {
    EXPECT_EQ(result("together", id)["results"], result("one", id)["results"]) << id;
    EXPECT_EQ(result("together", id)["jobs"], 3);
  }
}

TEST_F(Experiments, TellOfAFailureAfterTheOtherRunsHaveEnded) {
  file("bad/runs/narrow-64-1", "a file where a folder belongs");
  file("bad/experiment.json", R"({"name": "study", "scale": "smoke"})");
  std::vector<std::string> together = words("smoke", "bad");
  together.insert(together.end(), {"--jobs", "2"});
  const Outcome outcome = run_harmonic(together);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("narrow-64-1"), std::string::npos) << outcome.err;
  EXPECT_EQ(result("bad", "wide-64-1")["status"], "finished");
  EXPECT_FALSE(fs::exists(path("bad") + "/runs/narrow-64-2"));
}

TEST_F(Experiments, GoOnAfterAStopWithTheSameResults) {
  write_plan(300);
  ASSERT_EQ(run("smoke", "whole").status, 0);
  HarmonicProcess process(words("smoke", "stopped"));
  process.close_input();
  const fs::path metrics = path("stopped") + "/runs/narrow-64-1/metrics.jsonl";
  for (int i = 0; i < 6000 && !fs::exists(metrics); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  process.interrupt(SIGTERM);
  EXPECT_EQ(process.wait().status, 130);
  ASSERT_EQ(run("smoke", "stopped").status, 0);
  for (const char* id : {"wide-64-1", "narrow-64-1"})
    EXPECT_EQ(result("stopped", id)["results"], result("whole", id)["results"]) << id;
}

TEST_F(Experiments, LeaveNoRunBehindWhenTheyAreKilled) {
  write_plan(100000);
  HarmonicProcess process(words("smoke", "killed"));
  process.close_input();
  const fs::path metrics = path("killed") + "/runs/wide-64-1/metrics.jsonl";
  for (int i = 0; i < 6000 && !fs::exists(metrics); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  process.interrupt(SIGKILL);
  process.wait();
  // The run has its folder locked for as long as it lives.
  const auto locked = [&] {
    return FileLock(path("killed") + "/runs/wide-64-1/.lock", FileLock::Kind::exclusive).state() ==
           FileLock::State::taken;
  };
  for (int i = 0; i < 6000 && locked(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(locked());
}

TEST_F(Experiments, MeasureAgainWhatIsToBeMeasuredOtherwise) {
  ASSERT_EQ(run("smoke", "out").status, 0);
  const std::string model = path("out") + "/runs/wide-64-1/model.safetensors";
  const auto before = fs::last_write_time(model);
  const Json first = result("out", "wide-64-1");
  change_plan("states = [\"cold\", \"carry\"]", "states = [\"cold\"]\nmax_tokens = 100");
  change_plan("Two widths", "Another title");
  const Outcome outcome = run("smoke", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(fs::last_write_time(model), before) << "it was not trained again";
  const Json second = result("out", "wide-64-1");
  ASSERT_EQ(second["results"].size(), 1u);
  EXPECT_EQ(second["results"][0]["tokens"], 100);
  EXPECT_EQ(second["steps"], first["steps"]);
  const std::string plan = read_file(path("out") + "/plans/wide-64-1.toml");
  EXPECT_NE(plan.find("max_tokens = 100"), std::string::npos) << plan;
  const std::string described = read_file(path("out") + "/experiment.json");
  EXPECT_NE(described.find("Another title"), std::string::npos) << described;
  const Outcome again = run("smoke", "out");
  EXPECT_EQ(again.err.find("measuring it again"), std::string::npos) << again.err;
  EXPECT_EQ(result("out", "wide-64-1"), second);
}

TEST_F(Experiments, KeepNothingOfAStartThatFailed) {
  const std::string texts = fmt::format("train = [\"{}\"]", path("train.txt"));
  change_plan(texts, "");
  const Outcome without = run("smoke", "out");
  EXPECT_EQ(without.status, 2);
  EXPECT_NE(without.err.find("give them with --data"), std::string::npos) << without.err;
  EXPECT_FALSE(fs::exists(path("out")));
  change_plan("[run.data]", "[run.data]\ntrain = [\"/no/such.txt\"]");
  EXPECT_NE(run("smoke", "out").status, 0);
  change_plan("/no/such.txt", path("train.txt"));
  const Outcome outcome = run("smoke", "out");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
}

TEST_F(Experiments, HaveTheirFolderForThemselves) {
  file("other/notes.txt", "mine");
  const Outcome other = run("smoke", "other");
  EXPECT_EQ(other.status, 2);
  EXPECT_NE(other.err.find("holds notes.txt and no experiment.json"), std::string::npos) << other.err;
  ASSERT_EQ(run("smoke", "out").status, 0);
  const FileLock lock(path("out") + "/.lock", FileLock::Kind::exclusive);
  const Outcome outcome = run("smoke", "out");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("another process runs this experiment"), std::string::npos) << outcome.err;
}

TEST_F(Experiments, GoOnWhereNoRateOfAVariantWasGood) {
  change_plan("lr_factors = [1, 900]\nvariants = [\"wide\"]", "lr_factors = [900, 950]");
  change_plan("[variants.narrow.model]",
              "[variants.narrow.train]\nlr = 1e-6\nmuon_lr = 1e-6\n[variants.narrow.model]");
  change_plan("variants = [\"wide\"]\nlengths = [64]\nseeds = [3]", "lengths = [64]\nseeds = [3]");
  const Outcome outcome = run("tuned", "out");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("every learning rate that was tried for wide diverged"), std::string::npos)
      << outcome.err;
  EXPECT_EQ(result("out", "narrow-64-3")["status"], "finished");
  EXPECT_FALSE(fs::exists(path("out") + "/runs/wide-64-3"));
}

TEST_F(Experiments, LookAtATasksFlagsBeforeTheyTrain) {
  change_plan("states = [\"cold\", \"carry\"]",
              "task = \"recall\"\ntask_arguments = [\"--distence\", \"16\"]");
  const Outcome outcome = run("smoke", "out");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("--distence"), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(path("out") + "/runs/wide-64-1"));
  change_plan("\"--distence\", \"16\"", "\"--distances\", \"16,16\"");
  const Outcome twice = run("smoke", "out");
  EXPECT_EQ(twice.status, 2);
  EXPECT_NE(twice.err.find("--distances: 16 stands there twice"), std::string::npos) << twice.err;
}

TEST_F(Experiments, TakeTheLearningRateThatDidBest) {
  const Outcome outcome = run("tuned", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("the best factor is the grid's last: try smaller ones"), std::string::npos)
      << outcome.err;
  const double good = result("out", "tune-wide-64-lr1")["results"][0]["bits_per_byte"];
  const Json bad = result("out", "tune-wide-64-lr900");
  EXPECT_LT(good, 9);
  EXPECT_EQ(bad["status"], "diverged") << bad;
  EXPECT_EQ(bad["kind"], "tune");
  EXPECT_EQ(result("out", "wide-64-3")["axes"]["lr_factor"], "1");
}

TEST_F(Experiments, TellOfARunThatDivergedAndGoOn) {
  const Outcome outcome = run("diverging", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* id : {"wide-64-1", "narrow-64-1"}) {
    const Json found = result("out", id);
    EXPECT_EQ(found["status"], "diverged");
    EXPECT_TRUE(found["message"].get<std::string>().starts_with("training diverged at step")) << found;
    EXPECT_FALSE(found.contains("results"));
  }
}

TEST_F(Experiments, TellOfATrainedModelThatKnowsLessThanNothing) {
  const Outcome outcome = run("lost", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json found = result("out", "wide-64-1");
  EXPECT_EQ(found["status"], "diverged");
  EXPECT_EQ(found["steps"], 4);
  EXPECT_TRUE(found["message"].get<std::string>().starts_with("the trained model takes")) << found;
}

TEST_F(Experiments, TellOfATrainedModelWhoseLossesAreNotFinite) {
  const Outcome outcome = run("overflowing", "out");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json found = result("out", "wide-64-1");
  EXPECT_EQ(found["status"], "diverged");
  EXPECT_EQ(found["steps"], 1);
  EXPECT_NE(found["message"].get<std::string>().find("its losses are not finite"), std::string::npos)
      << found;
  EXPECT_FALSE(found.contains("results"));
}

// In a folder that has what the plans name: they are made for the top of a clone.
TEST_F(Experiments, OfThisRepositoryRunAtTheirSmallestScale) {
  const fs::path root = HARMONIC_SOURCE_DIR;
  const fs::path before = fs::current_path();
  fs::current_path(root);
  int64_t count = 0;
  for (const auto& entry : fs::directory_iterator("experiments/plans")) {
    if (entry.path().extension() != ".toml") continue;
    const std::string out = path(entry.path().stem().string());
    const Outcome outcome =
        run_harmonic({"experiment", entry.path().stem().string(), "--scale", "smoke", "--out", out},
                     {"HARMONIC_DATA_CACHE=" + path("cache")});
    EXPECT_EQ(outcome.status, 0) << entry.path() << ": " << outcome.err;
    for (const auto& run : fs::directory_iterator(out + "/runs")) {
      const fs::path file = run.path() / "result.json";
      const Json found = parse_json(read_file(file), file.string());
      EXPECT_EQ(found["status"], "finished") << file;
      EXPECT_EQ(found.value("certificate", "passed"), "passed") << file;
    }
    ++count;
  }
  fs::current_path(before);
  EXPECT_GE(count, 9);
}

TEST_F(Experiments, DoNotPromiseWhatTheEnvironmentCannotDo) {
  EXPECT_NE(run_harmonic({"train", "--help"}).out.find("HARMONIC_TRAIN_LR=3e-3"), std::string::npos);
  const std::string help = run_harmonic({"experiment", "--help"}).out;
  EXPECT_EQ(help.find("HARMONIC_TRAIN_LR=3e-3"), std::string::npos) << help;
  EXPECT_NE(help.find("(HARMONIC_TRAIN_LR) do not count"), std::string::npos) << help;
}

TEST_F(Experiments, ThatAreNotThereAreNamedWithTheNearest) {
  const Outcome outcome = run_harmonic({"experiment", "studdy", "--plans", path("plans")});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("did you mean \"study\"?"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace harmonic
