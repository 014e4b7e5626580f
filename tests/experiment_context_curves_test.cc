#include "harmonic/experiment/context_curves.h"

#include <gtest/gtest.h>

#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/json.h"
#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

const ContextCurve kTeacher = {"teacher", 64, {{128, 2.0}, {512, 1.5}, {1024, 6.0}}};
const ContextCurve kStudent = {"a < b", 64, {{128, 2.2}, {512, 1.6}}};

TEST(ContextCurves, TheTableSetsEachBesideTheFirst) {
  EXPECT_EQ(context_table({kTeacher, kStudent}),
            "| context | teacher | a < b |\n|---:|---:|---:|\n"
            "| 128 | 2.0000 | 2.2000 (+10.0 %) |\n"
            "| 512 | 1.5000 | 1.6000 (+6.7 %) |\n"
            "| 1,024 | 6.0000 | |\n");
}

TEST(ContextCurves, ANameCannotEndItsCell) {
  EXPECT_TRUE(context_table({{"a|b", 8, {{128, 2.0}}}}).starts_with("| context | a\\|b |\n|---:|---:|\n"));
}

TEST(ContextCurves, TheChartIsAFileOfItsOwn) {
  const std::string svg = context_chart({kTeacher, kStudent}, 4);
  EXPECT_TRUE(svg.starts_with("<?xml")) << svg.substr(0, 80);
  EXPECT_NE(svg.find("xmlns=\"http://www.w3.org/2000/svg\""), std::string::npos);
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_NE(svg.find("--c0:"), std::string::npos) << "its style is within";
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  ContextCurve long_named = kStudent;
  long_named.name = std::string(60, 'n');
  EXPECT_NE(context_chart({kTeacher, long_named}, 4).find(">" + long_named.name + "</text>"),
            std::string::npos)
      << "a name that has no place at its line stands above";
}

TEST(ContextCurves, WhatIsNoEvaluationByContextIsRefused) {
  const TemporaryFolder folder;
  EXPECT_THROW(read_context_curve("a", folder.file("a.json", R"({"results": [{"length": 8}]})")), Error);
  EXPECT_THROW(read_context_curve("a", folder.file("b.json", R"({"results": []})")), Error);
  for (const char* wrong :
       {R"("context": 9223372036854775807, "bits_per_token": 1)", R"("context": 0, "bits_per_token": 1)",
        R"("context": 8, "bits_per_token": 0)", R"("context": 8, "bits_per_token": 1e308)"})
    EXPECT_THROW(
        read_context_curve(
            "a", folder.file("c.json", fmt::format(R"({{"results": [{{"targets": 8, {}}}]}})", wrong))),
        Error)
        << wrong;
  const std::string failed =
      R"({"certificate": "failed", "results": [{"targets": 8, "context": 8, "bits_per_token": 1}]})";
  EXPECT_THROW(read_context_curve("a", folder.file("d.json", failed)), Error);
  EXPECT_EQ(run_harmonic({"curves", "a.json"}).status, 2);
}

// From two models to the table, and the warning that a student must not be better than its teacher.
TEST(ContextCurves, EvalWritesWhatTheyRead) {
  const TemporaryFolder folder;
  const std::string text = folder.file("text.txt", std::string(4000, 'x') + "abcdefgh");
  const auto attention = [](ModelConfig& config) {
    config.mixer = {"attention"};
    config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
  };
  const std::string a = make_model_folder(folder / "a", *make_byte_tokenizer(), 1, attention);
  const std::string b = make_model_folder(folder / "b", *make_byte_tokenizer(), 2);
  const auto evaluate = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"eval", "--data", text, "--targets", "8", "--groups", "4"};
    words.insert(words.end(), more.begin(), more.end());
    return run_harmonic(words, {"HARMONIC_DATA_CACHE=" + (folder / "cache")});
  };
  const Outcome beyond = evaluate({"--model", a, "--contexts", "32,128"});
  EXPECT_EQ(beyond.status, 2);
  EXPECT_NE(beyond.err.find("--beyond-limit asks it all the same"), std::string::npos) << beyond.err;
  for (const char* how : {"--beyond-limit", "--window"}) {
    std::vector<std::string> words = {"--model", a, "--contexts", "32,128", "--json", folder / "a.json", how};
    if (std::string(how) == "--window") words.push_back("16");
    const Outcome run = evaluate(words);
    EXPECT_EQ(run.status, 0) << run.err;
    const Json json = read_json(folder / "a.json");
    EXPECT_EQ(json.contains("window"), std::string(how) == "--window");
    EXPECT_EQ(json.contains("beyond_limit"), std::string(how) == "--beyond-limit");
  }
  const Outcome wide = evaluate({"--model", a, "--contexts", "32", "--window", "65"});
  EXPECT_EQ(wide.status, 2);
  EXPECT_NE(wide.err.find("was made for 64 tokens"), std::string::npos) << wide.err;
  const Outcome neither = evaluate({"--model", b, "--against", b, "--contexts", "32", "--window", "5"});
  EXPECT_EQ(neither.status, 2);
  EXPECT_NE(neither.err.find("has no attention to look back"), std::string::npos) << neither.err;
  const Outcome alone = run_harmonic({"eval", "--model", a, "--data", text, "--targets", "8"});
  EXPECT_EQ(alone.status, 2);
  EXPECT_NE(alone.err.find("--targets belongs to --contexts"), std::string::npos) << alone.err;
  // One of the two is better than the other, and is warned of only as the student.
  const Outcome ab =
      evaluate({"--model", a, "--against", b, "--contexts", "32", "--json", folder / "a.json"});
  const Outcome ba =
      evaluate({"--model", b, "--against", a, "--contexts", "32", "--json", folder / "b.json"});
  ASSERT_EQ(ab.status + ba.status, 0) << ab.err << ba.err;
  const auto warned = [](const Outcome& o) {
    return o.err.find("may have seen the targets") != std::string::npos;
  };
  EXPECT_NE(warned(ab), warned(ba)) << ab.out << ba.out;
  const Outcome table = run_harmonic(
      {"curves", "a=" + (folder / "a.json"), "b=" + (folder / "b.json"), "--svg", folder / "c.svg"});
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_NE(table.out.find("| 32 |"), std::string::npos) << table.out;
}

// A model that is not asked beyond 32 tokens stands beside one that was: on the same targets, with the same
// bits.
TEST(ContextCurves, RoomGivesShortContextsTheTargetsOfLongOnes) {
  const TemporaryFolder folder;
  std::string varied;
  for (int i = 0; i < 4000; ++i) varied += static_cast<char>('a' + i * i % 23);
  const std::string text = folder.file("text.txt", varied);
  const std::string model = make_model_folder(folder / "model", *make_byte_tokenizer());
  const auto evaluate = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"eval",           "--model", model,      "--data", text,
                                      "--targets",      "8",       "--groups", "4",      "--json",
                                      folder / "x.json"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome run = run_harmonic(words, {"HARMONIC_DATA_CACHE=" + (folder / "cache")});
    EXPECT_EQ(run.status, 0) << run.err;
    return read_json(folder / "x.json");
  };
  const Json both = evaluate({"--contexts", "32,128"}),
             shorter = evaluate({"--contexts", "32", "--room", "128"});
  EXPECT_EQ(shorter["targets"], both["targets"]);
  EXPECT_EQ(shorter["results"][0], both["results"][0]);
  EXPECT_NE(evaluate({"--contexts", "32"})["results"][0], both["results"][0]);
}

// Positions are stretched for each context: the same bits as those of a model whose configuration does so.
TEST(ContextCurves, EvalStretchesThePositionsOfAttention) {
  const TemporaryFolder folder;
  const std::string text = folder.file("text.txt", std::string(4000, 'x') + "abcdefgh");
  const auto results = [&](const std::string& model, std::vector<std::string> more) {
    std::vector<std::string> words = {
        "eval",      "--model", model,      "--data", text,     "--room",         "128",
        "--targets", "8",       "--groups", "4",      "--json", folder / "x.json"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome run = run_harmonic(words, {"HARMONIC_DATA_CACHE=" + (folder / "cache")});
    EXPECT_EQ(run.status, 0) << run.err;
    return read_json(folder / "x.json")["results"];
  };
  const auto attention = [](const RopeScaling& rope, int64_t context, double base = 10000) {
    return [=](ModelConfig& config) {
      config.mixer = {"attention"};
      config.attention = {.n_heads = 2, .n_kv_heads = 1, .rope_base = base, .rope = rope, .context = context};
    };
  };
  const auto tokenizer = make_byte_tokenizer();
  const std::string plain = make_model_folder(folder / "plain", *tokenizer, 1, attention({}, 32));
  const Json broken = results(plain, {"--contexts", "32,128", "--beyond-limit"});
  const double width = static_cast<double>(tiny_config(*tokenizer).d_model) / 2;
  for (const std::string kind : {"linear", "ntk", "yarn"}) {
    const auto change = kind == "ntk" ? attention({}, 128, 10000 * std::pow(4.0, width / (width - 2)))
                                      : attention({.kind = kind, .factor = 4, .context = 32}, 128);
    const std::string made_so = make_model_folder(folder / kind, *tokenizer, 1, change);
    const Json found = results(plain, {"--contexts", "32,128", "--stretch", kind});
    EXPECT_EQ(found[0], broken[0]) << "what it was made for stays as it is";
    EXPECT_EQ(found[1], results(made_so, {"--contexts", "128"})[0]) << kind;
    EXPECT_NE(found[1], broken[1]) << kind;
  }
  const std::string without = make_model_folder(folder / "without", *tokenizer);
  const Outcome none =
      run_harmonic({"eval", "--model", without, "--data", text, "--contexts", "8", "--stretch", "yarn"});
  EXPECT_EQ(none.status, 2);
  EXPECT_NE(none.err.find("has no attention whose positions"), std::string::npos) << none.err;
  const Outcome both = run_harmonic(
      {"eval", "--model", plain, "--against", plain, "--data", text, "--contexts", "8", "--stretch", "yarn"});
  EXPECT_EQ(both.status, 2);
  EXPECT_NE(both.err.find("--stretch goes without --against"), std::string::npos) << both.err;
}

}  // namespace
}  // namespace harmonic
