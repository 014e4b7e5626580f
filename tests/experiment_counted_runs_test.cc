// Which runs count in a report, and what is made of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/report.h"
#include "harmonic/experiment/report_charts.h"
#include "harmonic/experiment/report_tables.h"
#include "harmonic/experiment/report_text.h"
#include "harmonic/experiment/results.h"
#include "tests/experiment_fixture.h"
#include "tests/markup_check.h"

namespace harmonic {
namespace {

const Measured& figure_of(const std::vector<Measured>& all, const std::string& series) {
  return *std::find_if(all.begin(), all.end(), [&](const Measured& m) { return m.series == series; });
}

TEST(Report, DivergedRunsAndThoseWithAFailedCertificateAreListedAndNeverAveraged) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  for (int seed = 1; seed <= 3; ++seed) {
    fixture.add(FixtureRun{"harmonic", 4096, seed, 2.0});
    fixture.add(FixtureRun{"mamba", 4096, seed, 2.1});
  }
  Json diverged = finished_result({"harmonic", 4096, 4, 900});
  diverged["status"] = "diverged";
  diverged["message"] = "the loss is not finite at step 7";
  fixture.add(diverged);
  Json leaking = finished_result({"harmonic", 4096, 5, 0.001});
  leaking["certificate"] = "failed";
  fixture.add(leaking);
  fixture.write("harmonic-4096-seed6", "run.toml", "[train]\nseed = 6\n");
  const ExperimentResults experiment = results_of(fixture);
  const Summary summary = figure_of(main_measured(experiment, Figure::bits_per_byte), "harmonic").summary();
  EXPECT_EQ(summary.count, 3);
  EXPECT_DOUBLE_EQ(summary.mean, 2);
  const std::vector<ReportTable> tables = report_tables(experiment);
  ASSERT_NE(find_table(tables, "left-out"), nullptr);
  ASSERT_EQ(find_table(tables, "left-out")->rows.size(), 3u);
  const Finding finding = findings(experiment).back();
  EXPECT_TRUE(has(finding.headline, "3 of 9 runs left out")) << finding.headline;
  EXPECT_EQ(finding.lines[0], "harmonic-4096-seed4: diverged: the loss is not finite at step 7");
  EXPECT_EQ(finding.lines[1], "harmonic-4096-seed5: its certificate failed: it looks at the future");
  EXPECT_EQ(finding.lines[2], "harmonic-4096-seed6: not finished");
}

TEST(Report, OnlySeedsThatBothHaveArePaired) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  // Seed 1 of the one and 4 of the other stand alone: they would turn the difference round.
  for (const auto& [seed, bits] : {std::pair(1, 9.0), {2, 2.0}, {3, 2.3}})
    fixture.add(FixtureRun{"harmonic", 4096, seed, bits});
  for (const auto& [seed, bits] : {std::pair(2, 2.1), {3, 2.5}, {4, 1.0}})
    fixture.add(FixtureRun{"mamba", 4096, seed, bits});
  const ExperimentResults experiment = results_of(fixture);
  const std::vector<Comparison> compared =
      comparisons(experiment, main_measured(experiment, Figure::bits_per_byte));
  ASSERT_EQ(compared.size(), 1u);
  EXPECT_EQ(compared[0].seeds, (std::vector<std::string>{"2", "3"}));
  EXPECT_NEAR(compared[0].paired.difference.mean, -0.15, 1e-12);
  EXPECT_EQ(compared[0].paired.below, 2);
  // And a pair without any is said to be one.
  EXPECT_EQ(findings(experiment)[0].headline,
            "harmonic against transformer: no seed in common, nothing to compare.");
}

TEST(Report, TheHeadlineFollowsTheIntervals) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  fixture.write_experiment({{"pairs", Json::array({Json::array({"harmonic", "mamba"})})}});
  // Clearly below at 1K, above at 4K, both ways at 16K, one seed at 64K.
  const std::pair<int64_t, std::vector<double>> differences[] = {
      {1024, {-0.1, -0.11, -0.09}}, {4096, {0.1, 0.11, 0.09}}, {16384, {-0.1, 0.1, 0.0}}, {65536, {-0.5}}};
  for (const auto& [length, by_seed] : differences) {
    for (size_t i = 0; i < by_seed.size(); ++i) {
      fixture.add(FixtureRun{"mamba", length, static_cast<int>(i), 2.0});
      fixture.add(FixtureRun{"harmonic", length, static_cast<int>(i), 2.0 + by_seed[i]});
    }
  }
  const Finding finding = findings(results_of(fixture))[0];
  EXPECT_EQ(
      finding.headline,
      "harmonic against mamba, bits per byte (lower is better): lower at 1K; higher at 4K; not told apart "
      "at 16K; of one seed only at 64K.");
  // 4.30265 x 0.01 / sqrt(3) = 0.0248.
  EXPECT_EQ(finding.lines[0],
            "1K: \u22120.1000 (95 % interval \u22120.1248 to \u22120.0752), lower in 3 of 3 seeds");
  EXPECT_EQ(finding.lines[3], "64K: \u22120.5000, one seed, no interval");
}

TEST(Report, OnlyRunsOfThePlanCountAndThoseThatAreMissingAreNamed) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  const std::vector<std::string> planned = {"harmonic-4096-seed1", "harmonic-4096-seed2", "mamba-4096-seed1",
                                            "mamba-4096-seed2", "tune-harmonic-4096-lr2"};
  fixture.write_experiment({{"runs", planned}});
  fixture.add(FixtureRun{"harmonic", 4096, 1, 2.0});
  fixture.add(FixtureRun{"mamba", 4096, 1, 2.1});
  fixture.add(FixtureRun{"harmonic", 4096, 3, 9.0});                 // of an earlier plan
  fixture.add(FixtureRun{"forgotten", 4096, 1, 9.0});                // a variant that was
  fixture.write("tune-harmonic-4096-lr2", "run.toml", "[train]\n");  // not finished
  const ExperimentResults experiment = results_of(fixture);
  EXPECT_EQ(experiment.series(), (std::vector<std::string>{"harmonic", "mamba"}));
  const Summary summary = figure_of(main_measured(experiment, Figure::bits_per_byte), "harmonic").summary();
  EXPECT_EQ(summary.count, 1);
  EXPECT_DOUBLE_EQ(summary.mean, 2);
  const Finding finding = findings(experiment).back();
  EXPECT_TRUE(has(finding.headline, "4 of 6 runs left out")) << finding.headline;
  EXPECT_EQ(finding.lines, (std::vector<std::string>{"forgotten-4096-seed1: not of the plan as it is now",
                                                     "harmonic-4096-seed3: not of the plan as it is now",
                                                     "not begun: harmonic-4096-seed2 and mamba-4096-seed2"}));
  EXPECT_EQ(flaw_of(report_page({experiment})), "");
}

TEST(Report, SpeedsOfDifferentMachinesHaveNoMean) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  const auto add = [&](const char* variant, int seed, const char* device, double speed) {
    Json json = finished_result({variant, 4096, seed, 2.0});
    json["device"] = device;
    json["threads"] = 2;
    json["tokens_per_second"] = speed;
    json["core_parameters"] = 10;
    fixture.add(json);
  };
  add("harmonic", 1, "cpu", 1000);
  add("harmonic", 2, "cpu", 3000);
  add("mamba", 1, "cpu", 1000);
  add("mamba", 2, "NVIDIA H200", 100000);
  const std::vector<ReportTable> tables = report_tables(results_of(fixture));
  const ReportTable& cost = *find_table(tables, "cost");
  size_t column = 0;
  while (cost.columns[column].name != "tokens/s") ++column;
  EXPECT_EQ(cost.rows[0][column].text, "2.00K");
  EXPECT_EQ(cost.rows[1][column].text, "\u2013");
}

TEST(Report, ACarriedStateIsComparedWithAColdOneOfTheSameWeights) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  for (int seed = 1; seed <= 3; ++seed) {
    Json json = finished_result({"harmonic", 4096, seed, 2.0 + 0.1 * seed});
    Json carried = json["results"][0];
    carried["state"] = "carry";
    carried["bits_per_byte"] = 1.9 + 0.1 * seed + 0.01 * seed;
    json["results"].push_back(carried);
    fixture.add(json);
  }
  const ExperimentResults experiment = results_of(fixture);
  const std::vector<Comparison> compared = carried_against_cold(experiment, Figure::bits_per_byte);
  ASSERT_EQ(compared.size(), 1u);
  EXPECT_NEAR(compared[0].paired.difference.mean, -0.08, 1e-12);
  EXPECT_EQ(compared[0].paired.below, 3);
  EXPECT_EQ(findings(experiment).back().headline,
            "harmonic, carried against harmonic, cold, bits per byte (lower is better): lower at 4K.");
}

TEST(Report, TasksHaveTheirChanceBesideThem) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  Json json = finished_result({});
  for (const int64_t group : {64, 256})
    json["tasks"].push_back({{"task", "recall, 2 pairs"},
                             {"group", group},
                             {"accuracy", 0.6},
                             {"chance", 0.5},
                             {"bits", 1.25},
                             {"examples", 200}});
  fixture.add(json);
  const ExperimentResults experiment = results_of(fixture);
  const std::vector<ReportTable> tables = report_tables(experiment);
  const ReportTable& tasks = *find_table(tables, "tasks");
  const auto cell = [&](const std::string& name) {
    for (size_t i = 0; i < tasks.columns.size(); ++i)
      if (tasks.columns[i].name == name) return tasks.rows[0][i].text;
    return "no column " + name;
  };
  EXPECT_EQ(cell("chance"), "50.0 %");
  EXPECT_EQ(cell("bits of the answer"), "1.250");
  EXPECT_EQ(cell("examples"), "200");
  EXPECT_EQ(task_charts(experiment)[0].reference, 0.5);
  EXPECT_TRUE(has(report_page({experiment}), "The line across is chance"));
}

TEST(Report, ATuningRateThatDivergedOnceHasNoMean) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  fixture.add(FixtureRun{});
  for (int seed = 1; seed <= 2; ++seed) {
    Json json = finished_result({"harmonic", 4096, seed, 1.5});
    json["id"] = fmt::format("tune-{}", seed);
    json["kind"] = "tune";
    if (seed == 2) json["status"] = "diverged";
    fixture.add(json);
  }
  const ExperimentResults experiment = results_of(fixture);
  const std::vector<TuningGrid> grids = tuning_grids(experiment);
  ASSERT_EQ(grids.size(), 1u);
  EXPECT_TRUE(grids[0].tried[0].diverged);
  EXPECT_EQ(grids[0].chosen, std::vector<std::string>{"1"});
  // Nor do tuning runs stand in the results.
  EXPECT_DOUBLE_EQ(figure_of(measured(experiment, Figure::bits_per_byte), "harmonic").summary().mean, 2);
}

TEST(Report, TwoRunsInOnePlaceAreAnError) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  fixture.add(FixtureRun{});
  Json twin = finished_result({});
  twin["id"] = "twin";
  fixture.add(twin);
  EXPECT_TRUE(has(error_of(fixture.path()), "the runs harmonic-4096-seed1 and twin have the same axes"));
  twin["axes"]["size"] = "large";  // an axis more makes it a series of its own
  fixture.add(twin);
  EXPECT_EQ(results_of(fixture).series(), (std::vector<std::string>{"harmonic", "harmonic, size large"}));
}

TEST(MedianSpeed, LeavesOutTheFirstStepOnlyWhereThereAreOthers) {
  const auto steps = [](std::initializer_list<double> speeds) {
    std::vector<StepMetrics> result;
    for (const double speed : speeds) result.emplace_back().tokens_per_second = speed;
    return result;
  };
  EXPECT_EQ(median_speed({}), 0);
  EXPECT_EQ(median_speed(steps({7})), 7);
  EXPECT_EQ(median_speed(steps({1, 5})), 5);
  EXPECT_EQ(median_speed(steps({1, 5, 9, 7})), 7);
  EXPECT_EQ(median_speed(steps({1, 5, NAN, 7})), 6);
}

}  // namespace
}  // namespace harmonic
