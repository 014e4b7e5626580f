#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/markup.h"
#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/report.h"
#include "harmonic/experiment/report_charts.h"
#include "harmonic/experiment/report_tables.h"
#include "harmonic/experiment/report_text.h"
#include "harmonic/experiment/results.h"
#include "harmonic/experiment/svg_chart.h"
#include "tests/cli_program.h"
#include "tests/experiment_fixture.h"

namespace harmonic {
namespace {

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// The first thing that makes `markup` no tree of elements with quoted attributes and known entities; empty
// when it is one.
std::string flaw_of(std::string_view markup) {
  std::vector<std::string> open;
  const auto near = [&](size_t at) { return std::string(markup.substr(at, 60)); };
  for (size_t at = 0; at < markup.size();) {
    if (markup.substr(at).starts_with("<!DOCTYPE html>")) {
      at += 15;
    } else if (markup[at] == '<') {
      size_t end = at;
      for (bool quoted = false; ++end < markup.size() && (quoted || markup[end] != '>');)
        if (markup[end] == '"') quoted = !quoted;
      if (end == markup.size()) return "a tag without end: " + near(at);
      const std::string tag(markup.substr(at + 1, end - at - 1));
      if (has(tag, "<")) return "a tag within a tag: " + near(at);
      const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
      if (tag.starts_with("/")) {
        if (open.empty() || "/" + open.back() != tag) return "closes what is not open: " + near(at);
        open.pop_back();
      } else if (!tag.ends_with("/")) {
        open.push_back(name);
      }
      at = end + 1;
      if (!open.empty() && open.back() == "style" && !tag.starts_with("/")) at = markup.find("</style>", at);
    } else if (markup[at] == '&') {
      bool known = false;
      for (const char* entity : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"})
        known = known || markup.substr(at).starts_with(entity);
      if (!known) return "an unknown entity: " + near(at);
      ++at;
    } else if (markup[at] == '>') {
      return "a stray >: " + near(at);
    } else {
      ++at;
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

ExperimentResults results_of(const ExperimentFixture& fixture) { return read_results({fixture.path()})[0]; }

std::string error_of(const std::filesystem::path& folder) {
  try {
    report_page(read_results({folder}));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

const Measured& figure_of(const std::vector<Measured>& all, const std::string& series) {
  return *std::find_if(all.begin(), all.end(), [&](const Measured& m) { return m.series == series; });
}

TEST(Report, ThePageIsWellFormedAndHoldsEveryTableValueAndNothingFromOutside) {
  const TemporaryFolder folder;
  RealisticExperiment(folder / "x", "crossover", {1024, 16384});
  const std::vector<ExperimentResults> experiments = read_results({folder / "x"});
  const std::string page = report_page(experiments);
  EXPECT_EQ(flaw_of(page), "");
  const std::string markdown = report_markdown(experiments);
  const std::vector<ReportTable> tables = report_tables(experiments[0]);
  for (const char* id : {"results", "paired", "cost", "tasks", "evaluations", "tuning", "certificates",
                         "left-out", "by-context", "by-phase", "settings", "runs", "paper-enwik8"})
    EXPECT_NE(find_table(tables, id), nullptr) << id;
  for (const ReportTable& table : tables) {
    EXPECT_TRUE(has(markdown, "### " + table.title));
    for (const auto& row : table.rows) {
      ASSERT_EQ(row.size(), table.columns.size()) << table.id;
      for (const TableCell& cell : row) ASSERT_TRUE(has(page, ">" + escaped(cell.text) + "<")) << cell.text;
    }
  }
  for (const char* outside : {"<script", "<link", "<img", "src=", "@import", "url(", "http"})
    EXPECT_FALSE(has(page, outside)) << outside;
  EXPECT_FALSE(has(page, "nan")) << page.substr(page.find("nan") - 80, 160);
  EXPECT_EQ(page, report_page(read_results({folder / "x"})));
}

TEST(Report, HostileNamesAreTextAndNeverMarkup) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  const std::string hostile = "<script>alert('&\")</script>\x01";
  fixture.write_experiment({{"title", hostile},
                            {"name", hostile},
                            {"question", hostile},
                            {"build", hostile},
                            {"machine", {{"processor", hostile}, {hostile, 3}}},
                            {"pairs", Json::array({Json::array({hostile, "b"})})}});
  for (int seed = 1; seed <= 2; ++seed) {
    for (const int64_t length : {1024, 4096}) {
      for (const std::string& variant : {hostile, std::string("b")}) {
        Json json = finished_result({variant, length, seed, 2.0});
        json["id"] = fmt::format("{}-{}-{}", variant == "b" ? "b" : "<b>&", length, seed);
        json["tasks"] = Json::array({{{"task", hostile}, {"group", hostile}, {"accuracy", 0.5}}});
        fixture.add(json);
        fixture.write(json["id"], "run.toml", "[model]\nname = \"</pre><script>\"\n");
        fixture.write(json["id"], "sample.txt", "</pre><script>\xff\n");
      }
    }
  }
  Json diverged = finished_result({"b", 1024, 3, 2.0});
  diverged["status"] = "diverged";
  diverged["message"] = hostile;
  fixture.add(diverged);
  const std::string page = report_page({results_of(fixture)});
  EXPECT_EQ(flaw_of(page), "");
  EXPECT_FALSE(has(page, "<script"));
  EXPECT_TRUE(has(page, "&lt;script&gt;alert(&#39;&amp;&quot;)&lt;/script&gt;\uFFFD"));
  EXPECT_FALSE(has(report_markdown({results_of(fixture)}), "<script"));
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

TEST(Report, FoldersThatAreNoResultsAreErrorsThatSayWhatToDo) {
  const TemporaryFolder folder;
  EXPECT_TRUE(has(error_of(folder / "absent"), "no such folder"));
  make_folder(folder / "empty");
  EXPECT_TRUE(has(error_of(folder / "empty"), "expected the folder of an experiment or of a training run"));
  const ExperimentFixture no_runs(folder / "no-runs");
  EXPECT_TRUE(has(error_of(no_runs.path()), "run the experiment first"));

  const auto error_with = [&](const Json& changes) {
    const ExperimentFixture fixture(folder / "broken");
    Json json = finished_result({});
    json.update(changes);
    fixture.add(json);
    const std::string error = error_of(fixture.path());
    EXPECT_TRUE(has(error, "result.json")) << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    return error;
  };
  EXPECT_TRUE(has(error_with({{"status", "done"}}), "expected \"finished\" or \"diverged\", found \"done\""));
  EXPECT_TRUE(has(error_with({{"kind", 3}}), "\"kind\": expected a text, found 3"));
  EXPECT_TRUE(has(error_with({{"steps", -1}}), "\"steps\": expected a number of at least 0, found -1"));
  EXPECT_TRUE(has(error_with({{"steps", 1.5}}), "expected a whole number"));
  EXPECT_TRUE(has(error_with({{"axes", {{"length", "long"}}}}), "expected a length in tokens"));
  EXPECT_TRUE(has(error_with({{"results", 7}}), "\"results\": expected a list, found 7"));
  EXPECT_TRUE(has(error_with({{"results", Json::array({{{"length", 8}}})}}),
                  "\"bits_per_token\": expected a number"));
  EXPECT_TRUE(has(error_with({{"results", Json::array({{{"length", 8}, {"bits_per_token", nullptr}}})}}),
                  "found nothing"));

  const ExperimentFixture fixture(folder / "broken");
  fixture.add(finished_result({}));
  const std::string run = finished_result({})["id"];
  fixture.write(run, "metrics.jsonl", "{\"step\":1}\n");
  EXPECT_TRUE(has(error_of(fixture.path()), "metrics.jsonl:1: expected a whole number \"tokens\""));
  fixture.write(run, "metrics.jsonl", "nonsense\n");
  EXPECT_TRUE(has(error_of(fixture.path()), "metrics.jsonl:1: expected a JSON object"));
  fixture.write(run, "metrics.jsonl", "");
  fixture.write(run, "run.toml", "[model\n");
  EXPECT_TRUE(has(error_of(fixture.path()), "run.toml:1"));
  fixture.write(run, "run.toml", "");
  fixture.write(run, "result.json", "{");
  EXPECT_TRUE(has(error_of(fixture.path()), "result.json: not valid JSON"));
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

TEST(Report, ATrainingRunByItselfHasItsCurveAndItsRecipe) {
  const TemporaryFolder folder;
  make_folder(folder / "mine");
  folder.file("mine/run.toml", "[train]\nlr = 0.003\n");
  std::string metrics;
  for (int step = 1; step <= 1000; ++step)
    metrics += fmt::format(
        "{{\"step\":{0},\"tokens\":{0}000,\"loss\":1,\"bits_per_byte\":{1},\"lr\":1,\"grad_norm\":null,"
        "\"tokens_per_second\":5000,\"peak_memory_bytes\":1000000,\"seconds\":{0}}}\n",
        step, step == 500 ? "null" : "2.5");
  folder.file("mine/metrics.jsonl", metrics + "{\"step\":1001,\"tok");  // killed within a line
  const std::vector<ExperimentResults> experiments = read_results({folder / "mine/"});
  ASSERT_EQ(experiments.size(), 1u);
  EXPECT_EQ(experiments[0].runs[0].train_tokens, 1'000'000);
  EXPECT_LE(experiments[0].runs[0].curve.size(), kMostCurvePoints);
  const std::string page = report_page(experiments);
  EXPECT_EQ(flaw_of(page), "");
  EXPECT_TRUE(has(page, "Training loss against tokens"));
  EXPECT_TRUE(has(page, "lr = 0.003"));
  EXPECT_TRUE(has(page, ">1.00M<"));
}

TEST(Report, ThinnedCurvesKeepTheirMeanAndLeaveOutWhatIsNotFinite) {
  std::vector<StepMetrics> steps;
  for (int i = 0; i < 1000; ++i) {
    StepMetrics step;
    step.tokens = i;
    step.bits_per_byte = i == 3 ? std::numeric_limits<double>::quiet_NaN() : i;
    steps.push_back(step);
  }
  const std::vector<CurvePoint> points = thinned(steps, 10);
  ASSERT_EQ(points.size(), 10u);
  EXPECT_DOUBLE_EQ(points[9].bits_per_byte, 949.5);
  EXPECT_DOUBLE_EQ(points[9].tokens, 949.5);
  EXPECT_DOUBLE_EQ(points[0].bits_per_byte, (4950 - 3) / 99.0);
  EXPECT_TRUE(thinned({}, 10).empty());
}

TEST(SvgChart, ChartsOfOnePointOfConstantsAndOfWhatIsNotFiniteAreFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<ChartPoint>> data = {
      {{1024, 2}},
      {{1024, 2, 0.1, "tip"}, {4096, 2, nan, "tip"}, {16384, 2, 0, "tip"}},
      {{1024, 0}, {1024, 0}},
      {{0, 1}, {-5, 2}, {1024, -3}},
      {{nan, 2}, {1024, nan}, {4096, infinity}, {1024, 1}},
      {{1, 1e-300}, {2, 1e300}},
      {{1e-12, 5}, {1 + 1e-15, 5 + 1e-15}},
  };
  for (const bool logarithmic : {false, true}) {
    for (const ChartAxis::Unit unit :
         {ChartAxis::Unit::number, ChartAxis::Unit::length, ChartAxis::Unit::count, ChartAxis::Unit::bytes,
          ChartAxis::Unit::seconds, ChartAxis::Unit::percent, ChartAxis::Unit::category}) {
      for (const auto& points : data) {
        Chart chart;
        chart.title = "<a>";
        chart.x.unit = unit;
        chart.x.logarithmic = chart.y.logarithmic = logarithmic;
        chart.x.categories = {"one", "two"};
        chart.series = {{"a", 0, true, false, points}, {"b", 1, true, false, {{1024, 3}}}};
        const std::string figure = chart_figure(chart);
        EXPECT_EQ(flaw_of(figure), "");
        EXPECT_FALSE(has(figure, "nan") || has(figure, "inf")) << figure;
        EXPECT_LT(figure.size(), 20'000u);
      }
    }
  }
  EXPECT_EQ(chart_figure(Chart{}), "");
  Chart nothing;
  nothing.series = {{"a", 0, true, false, {{nan, nan}}}};
  EXPECT_EQ(chart_figure(nothing), "");
}

TEST(SvgChart, TicksAreRoundAndTheirLabelsDoNotTouch) {
  const auto labels = [](const ChartAxis& axis, const std::vector<double>& figures, double width = 0.02) {
    std::string text;
    for (const Tick& tick : AxisScale(axis, figures, 0.03).ticks(6, width)) text += tick.label + " ";
    return text;
  };
  ChartAxis axis;
  EXPECT_EQ(labels(axis, {1.8, 1.97}), "1.80 1.85 1.90 1.95 ");
  axis.low = 0;
  EXPECT_EQ(labels(axis, {3, 10}), "0 2 4 6 8 10 ");
  axis.unit = ChartAxis::Unit::seconds;
  EXPECT_EQ(labels(axis, {9000}), "0 h 0.5 h 1 h 1.5 h 2 h 2.5 h ");
  axis.unit = ChartAxis::Unit::count;
  EXPECT_EQ(labels(axis, {20e6}), "0 5M 10M 15M 20M ");
  axis = {};
  axis.logarithmic = true;
  axis.unit = ChartAxis::Unit::length;
  EXPECT_EQ(labels(axis, {1024, 4096, 65536, 4096}), "1K 4K 64K ");
  axis.unit = ChartAxis::Unit::bytes;
  EXPECT_EQ(labels(axis, {12e3, 130e6}), "10 KB 100 KB 1 MB 10 MB 100 MB ");
  axis = {};
  axis.unit = ChartAxis::Unit::category;
  axis.categories = {"long-name-0", "long-name-1", "long-name-2", "long-name-3"};
  EXPECT_EQ(labels(axis, {0, 3}, 0.03), "long-name-0 long-name-2 ");
}

TEST(NumberText, NumbersReadAsAPersonWritesThem) {
  EXPECT_EQ(grouped_text(1234567), "1,234,567");
  EXPECT_EQ(length_text(4096), "4K");
  EXPECT_EQ(length_text(1000), "1,000");
  EXPECT_EQ(length_text(1 << 20), "1M");
  EXPECT_EQ(count_text(65'536'000), "65.5M");
  EXPECT_EQ(count_text(999'999), "1.00M");
  EXPECT_EQ(without_zeros("1.00M"), "1M");
  EXPECT_EQ(without_zeros("8.50 GB"), "8.5 GB");
  EXPECT_EQ(bytes_text(12296), "12.3 KB");
  EXPECT_EQ(seconds_text(74), "74.0 s");
  EXPECT_EQ(signed_text(-0.00001, 3), "0.000");
  EXPECT_EQ(signed_text(0.25, 2), "+0.25");
  EXPECT_EQ(fixed_text(-1.5, 1), "\u22121.5");
}

TEST(ReportCommand, WritesThePageMarkdownAndCsvThatReadBack) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  for (int seed = 1; seed <= 2; ++seed) {
    fixture.add(FixtureRun{"harmonic", 4096, seed, 2.0});
    fixture.add(FixtureRun{"mamba, the \"first\"", 4096, seed, 2.125});
  }
  const Outcome outcome = run_harmonic({"report", folder / "x", "--out", folder / "page.html", "--markdown",
                                        folder / "page.md", "--csv", folder / "all.csv"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(flaw_of(read_file(folder / "page.html")), "");
  EXPECT_TRUE(has(read_file(folder / "page.md"), "| 4K | harmonic | 2 | 2.0000 |"));
  const std::string csv = read_file(folder / "all.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5);
  EXPECT_TRUE(has(csv, "\"mamba, the \"\"first\"\"\""));
  EXPECT_TRUE(has(csv, ",4096,cold,"));
  ASSERT_EQ(
      run_harmonic({"report", folder / "x", "--out", folder / "page.html", "--csv", folder / "csv"}).status,
      0);
  EXPECT_TRUE(has(read_file(folder / "csv/crossover-results.csv"), "4096,harmonic,2,2,0,0,6.9"));
  const Outcome missing = run_harmonic({"report", folder / "none", "--out", folder / "other.html"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_TRUE(has(missing.err, "no such folder"));
  EXPECT_FALSE(std::filesystem::exists(folder / "other.html"));
}

TEST(ReportCommand, RefusesToWriteTwoThingsToOneFile) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  fixture.add(FixtureRun{"harmonic", 4096, 1, 2.0});
  const Outcome outcome = run_harmonic(
      {"report", folder / "x", "--out", folder / "page.html", "--markdown", folder / "x/../page.html"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_TRUE(has(outcome.err, "--out and --markdown are the same file")) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "page.html"));
}

TEST(ReportCommand, NamesARunThatIsALinkToItself) {
  const TemporaryFolder folder;
  const ExperimentFixture fixture(folder / "x");
  fixture.add(FixtureRun{"harmonic", 4096, 1, 2.0});
  std::filesystem::create_symlink("loop", folder / "x/runs/loop");
  const Outcome outcome = run_harmonic({"report", folder / "x", "--out", folder / "page.html"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(has(outcome.err, "runs/loop: cannot be looked at")) << outcome.err;
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
