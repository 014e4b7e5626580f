// The page, its tables and its files.
#include "harmonic/experiment/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/markup.h"
#include "harmonic/experiment/report_charts.h"
#include "harmonic/experiment/report_tables.h"
#include "harmonic/experiment/report_text.h"
#include "harmonic/experiment/results.h"
#include "tests/cli_program.h"
#include "tests/experiment_fixture.h"
#include "tests/markup_check.h"

namespace harmonic {
namespace {

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

}  // namespace
}  // namespace harmonic
