// What a plan's file comes to.
#include "harmonic/experiment/plan.h"

#include <gtest/gtest.h>

#include "data_fixture.h"
#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr const char* kPlan = R"(
title = "A title"
question = "A question?"
pairs = [["wide", "narrow"]]
[run.train]
lr = 2e-3
muon_lr = 1e-2
[variants.wide.model]
d_model = 64
[variants.narrow.model]
d_model = 32
mixer = "attention"
[variants.narrow.train]
tokens = "2M"
[scales.small]
tokens_per_step = 4096
run.data.valid = ["held out.txt"]
variants.narrow.model.n_layers = 3
[scales.small.evaluate]
states = ["cold", "carry"]
[scales.small.tune]
lr_factors = [0.5, 2]
length = 512
run.train.tokens = "1K"
[[scales.small.grid]]
lengths = [1024, 8192]
seeds = [1, 2]
[[scales.small.grid]]
variants = ["wide"]
lengths = [65536]
seeds = [7]
evaluate = false
run.train.steps = 3
[scales.other]
[[scales.other.grid]]
lengths = [64]
seeds = [1]
)";

class Plan : public DataTest {
 protected:
  ExperimentPlan load(const std::string& text, const std::string& scale = "small",
                      const PlanOverrides& overrides = {}) const {
    return ExperimentPlan::load(file("study.toml", text), scale, overrides);
  }
  std::string error_of(std::string text, const std::string& from, const std::string& to,
                       const std::string& scale = "small") const {
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    try {
      load(text, scale);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(Plan, ComesToARunForEachVariantLengthAndSeed) {
  const ExperimentPlan plan = load(kPlan);
  EXPECT_EQ(plan.name, "study");
  EXPECT_EQ(plan.title, "A title");
  ASSERT_EQ(plan.pairs.size(), 1u);
  EXPECT_EQ(plan.pairs[0].first, "wide");
  std::vector<std::string> ids;
  for (const PlannedRun& run : plan.runs({})) ids.push_back(run.id);
  EXPECT_EQ(ids, (std::vector<std::string>{"wide-1024-1", "narrow-1024-1", "wide-1024-2", "narrow-1024-2",
                                           "wide-8192-1", "narrow-8192-1", "wide-8192-2", "narrow-8192-2",
                                           "wide-65536-7"}));
}

TEST_F(Plan, LaysTheSettingsOfScaleVariantAndGridOverTheCommonOnes) {
  const std::vector<PlannedRun> runs = load(kPlan).runs({});
  const RunConfig& wide = runs[0].config;
  EXPECT_EQ(wide.model.d_model, 64);
  EXPECT_EQ(wide.train.lr, 2e-3);
  EXPECT_EQ(wide.train.seq_len, 1024);
  EXPECT_EQ(wide.train.batch_size, 4);
  EXPECT_EQ(wide.train.seed, 1);
  EXPECT_EQ(wide.data.valid, (std::vector<std::string>{"held out.txt"}));
  EXPECT_EQ(runs[0].evaluation.lengths, (std::vector<int64_t>{1024}));
  EXPECT_EQ(runs[0].evaluation.states, (std::vector<std::string>{"cold", "carry"}));
  const RunConfig& narrow = runs[5].config;
  EXPECT_EQ(narrow.model.n_layers, 3);
  EXPECT_EQ(narrow.train.tokens, 2'000'000);
  EXPECT_EQ(narrow.train.batch_size, 1);            // 4,096 tokens a step are less than one sequence
  EXPECT_EQ(narrow.model.attention.context, 8192);  // attention can hold the sequence
  EXPECT_EQ(runs[8].config.train.steps, 3);
  EXPECT_FALSE(runs[8].evaluated);
}

TEST_F(Plan, TriesEveryRateForEveryVariantAndTakesTheChosenOnes) {
  const ExperimentPlan plan = load(kPlan);
  const std::vector<PlannedRun> tuning = plan.tuning();
  ASSERT_EQ(tuning.size(), 4u);
  EXPECT_EQ(tuning[1].id, "tune-wide-512-lr2");
  EXPECT_EQ(tuning[1].config.train.lr, 4e-3);
  EXPECT_EQ(tuning[1].config.train.muon_lr, 2e-2);
  EXPECT_EQ(tuning[1].config.train.tokens, 1000);
  EXPECT_EQ(tuning[1].config.train.seq_len, 512);
  EXPECT_EQ(tuning[1].evaluation.states, (std::vector<std::string>{"cold"}));
  const std::vector<PlannedRun> runs = plan.runs({{"narrow", 0.5}});
  EXPECT_EQ(runs[0].config.train.lr, 2e-3);
  EXPECT_EQ(runs[1].config.train.lr, 1e-3);
  EXPECT_EQ(runs[1].lr_factor, 0.5);
  EXPECT_TRUE(load(kPlan, "other").tuning().empty());
}

TEST_F(Plan, TakesTheTextsOfTheCommandLine) {
  const PlannedRun run = load(kPlan, "small", {{"a.txt", "b.txt"}, {"c.txt"}}).runs({})[0];
  EXPECT_EQ(run.config.data.train, (std::vector<std::string>{"a.txt", "b.txt"}));
  EXPECT_EQ(run.config.data.valid, (std::vector<std::string>{"c.txt"}));
}

TEST_F(Plan, SaysWhatIsWrongAndWhere) {
  const std::string plan = kPlan;
  const struct {
    std::string from, to, named;
  } cases[] = {
      {"question =", "qestion =", "did you mean \"question\"?"},
      {"d_model = 64", "d_modle = 64", "did you mean"},
      {"d_model = 64", "d_model = -64", "d_model"},
      {"\"narrow\"]]", "\"narow\"]]", "did you mean \"narrow\"?"},
      {"seeds = [7]", "seed = [7]", "did you mean \"seeds\"?"},
      {"seeds = [7]", "", "seeds"},
      {"[\"wide\"]\nlengths = [65536]", "[\"wide\"]\nlengths = [1024]", "no error"},
      {"lengths = [65536]\nseeds = [7]", "lengths = [1024]\nseeds = [2]", "planned twice"},
      {"lr_factors = [0.5, 2]", "lr_factors = [0.5, -2]", "lr_factors"},
      {"variants.narrow.model.n_layers", "variants.narow.model.n_layers", "narow"},
      {"states = [\"cold\"", "states = [\"warm\"", "cold, carry"},
  };
  for (const auto& c : cases)
    EXPECT_NE(error_of(plan, c.from, c.to).find(c.named), std::string::npos)
        << c.to << ": " << error_of(plan, c.from, c.to);
  EXPECT_NE(error_of(plan, "A title", "A title", "smal").find("did you mean \"small\"?"), std::string::npos);
}

}  // namespace
}  // namespace harmonic
