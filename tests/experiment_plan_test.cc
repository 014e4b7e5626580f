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

TEST_F(Plan, TakesTheTextsAndSettingsOfTheCommandLine) {
  const PlannedRun run =
      load(kPlan, "small", {{"a.txt", "b.txt"}, {"c.txt"}, {}, {{"train.clip=0.25"}}}).runs({})[0];
  EXPECT_EQ(run.config.data.train, (std::vector<std::string>{"a.txt", "b.txt"}));
  EXPECT_EQ(run.config.data.valid, (std::vector<std::string>{"c.txt"}));
  EXPECT_EQ(run.config.train.clip, 0.25);
}

TEST_F(Plan, IsLaidOverTheFilesThatItIncludesAndVariantsOverThoseThatTheyAreLike) {
  file("parts/models.toml", R"(
title = "not this one"
[run.train]
lr = 1e-3
[variants.small.model]
d_model = 8
n_layers = 2
)");
  file("parts/sizes.toml",
       "[scales.small]\ntokens_per_step = 640\n[scales.small.variants]\nsmall.train.clip = 0.5");
  const ExperimentPlan plan = load(R"(
title = "this one"
include = ["parts/models.toml", "parts/sizes.toml"]
[variants.deep]
like = "small"
model.n_layers = 5
[variants.deepest]
like = "deep"
model.n_layers = 9
[[scales.small.grid]]
lengths = [64]
seeds = [1]
)");
  EXPECT_EQ(plan.title, "this one");
  EXPECT_EQ(plan.variants, (std::vector<std::string>{"small", "deep", "deepest"}));
  const std::vector<PlannedRun> runs = plan.runs({});
  ASSERT_EQ(runs.size(), 3u);
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].config.model.d_model, 8);
    EXPECT_EQ(runs[i].config.model.n_layers, (std::vector<int64_t>{2, 5, 9})[i]);
    EXPECT_EQ(runs[i].config.train.lr, 1e-3);
    EXPECT_EQ(runs[i].config.train.clip, 0.5);
    EXPECT_EQ(runs[i].config.train.batch_size, 10);
  }
  EXPECT_NE(
      error_of("[variants.a]\nlike = \"b\"\n[variants.b]\nlike = \"a\"\n[[scales.small.grid]]\nlengths = "
               "[64]\nseeds = [1]",
               "a", "a")
          .find("is like itself"),
      std::string::npos);
}

TEST_F(Plan, KeepsWhatTellsItsRunsApartFromTheCommandLine) {
  const auto error = [&](const std::string& setting, const std::string& scale) -> std::string {
    try {
      load(kPlan, scale, {{}, {}, {}, {{setting}}});
    } catch (const Error& caught) {
      EXPECT_EQ(caught.kind(), Error::Kind::usage);
      return caught.what();
    }
    return "no error";
  };
  for (const char* key : {"train.seed", "train.seq_len", "model.attention.context", "train.batch_size"})
    EXPECT_NE(error(std::string(key) + "=64", "small").find(std::string(key) + " cannot be set for all runs"),
              std::string::npos)
        << key;
  EXPECT_NE(error("train.seed = 4", "small").find("the grid's seeds set it"), std::string::npos);
  EXPECT_EQ(error("train.batch_size=4", "other"), "no error") << "without tokens_per_step it is free";
  EXPECT_EQ(error("train.lr=4e-3", "small"), "no error");
  // What a variant, a scale's variant or an entry of the grid sets.
  for (const char* key : {"model.d_model", "model.mixer", "train.tokens", "model.n_layers", "train.steps"})
    EXPECT_NE(error(std::string(key) + "=64", "small").find("variants or the grid set it"), std::string::npos)
        << key;
  EXPECT_NE(error("train.steps=64", "other").find("variants or the grid set it"), std::string::npos)
      << "a variant sets train.tokens";
}

TEST_F(Plan, AppliesALearningRateFactorThatHasNoOther) {
  std::string text = kPlan;
  const std::string factors = "lr_factors = [0.5, 2]";
  text.replace(text.find(factors), factors.size(), "lr_factors = [0.5]\nvariants = [\"wide\"]");
  const ExperimentPlan plan = load(text);
  EXPECT_TRUE(plan.tuning().empty());
  const std::vector<PlannedRun> runs = plan.runs({});
  EXPECT_EQ(runs[0].config.train.lr, 1e-3);
  EXPECT_EQ(runs[0].lr_factor, 0.5);
  EXPECT_EQ(runs[1].config.train.lr, 2e-3) << "narrow is not tuned";
}

TEST_F(Plan, MakesRoomForTheLongestTextOfATask) {
  std::string text = kPlan;
  const std::string states = "states = [\"cold\", \"carry\"]";
  text.replace(text.find(states), states.size(), "task = \"recall\"\nlongest_text = \"10K\"");
  const std::vector<PlannedRun> runs = load(text).runs({});
  EXPECT_EQ(runs[0].config.model.attention.context, 10000);
  EXPECT_EQ(runs[8].config.model.attention.context, 65536);
}

TEST_F(Plan, ExpectsTextsWhereTheyAreNeeded) {
  const auto error = [&](const PlanOverrides& overrides, const std::string& scale) -> std::string {
    try {
      load(kPlan, scale, overrides).expect_texts();
    } catch (const Error& caught) {
      EXPECT_EQ(caught.kind(), Error::Kind::usage);
      return caught.what();
    }
    return "no error";
  };
  EXPECT_NE(error({}, "small").find("tune-wide-512-lr0.5 has no texts to train on; give them with --data"),
            std::string::npos);
  EXPECT_NE(error({{"a.txt"}, {}, {}, {}}, "other").find("give them with --valid"), std::string::npos);
  EXPECT_EQ(error({{"a.txt"}, {}, {"b.txt"}, {}}, "other"), "no error");
  EXPECT_EQ(error({{"a.txt"}, {}, {}, {}}, "small"), "no error");
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
      {"lr_factors = [0.5, 2]", "lr_factors = [0.5, 0.50000001]", "two of them are 0.5"},
      {"[variants.wide.model]", "[variants.\"a/b\".model]\n[variants.wide.model]",
       "variant \"a/b\": expected"},
      {"[variants.wide.model]", "[variants.\"\".model]\n[variants.wide.model]", "variant \"\": expected"},
      {"[variants.wide.model]", "[variants.tune-x.model]\n[variants.wide.model]", "tune-x"},
      {"[variants.wide.model]", "[variants.\".x\".model]\n[variants.wide.model]", "\".x\""},
      {"states = [\"cold\", \"carry\"]", "task = \"recal\"", "lambada, recall"},
      {"[variants.narrow.train]", "[variants.narrow]\nlike = \"wid\"\n[variants.narrow.train]",
       "did you mean \"wide\"?"},
      {"variants.narrow.model.n_layers", "variants.narow.model.n_layers", "narow"},
      {"states = [\"cold\"", "states = [\"warm\"", "cold, carry"},
      {"states = [\"cold\", \"carry\"]", "states = []", "found none"},
      {"states = [\"cold\", \"carry\"]", "states = [\"cold\", \"cold\"]", "states: cold stands there twice"},
      {"states = [\"cold\", \"carry\"]", "lengths = [64, 64]", "lengths: 64 stands there twice"},
  };
  for (const auto& c : cases)
    EXPECT_NE(error_of(plan, c.from, c.to).find(c.named), std::string::npos)
        << c.to << ": " << error_of(plan, c.from, c.to);
  EXPECT_NE(error_of(plan, "A title", "A title", "smal").find("did you mean \"small\"?"), std::string::npos);
}

}  // namespace
}  // namespace harmonic
