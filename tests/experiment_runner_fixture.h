// A small experiment of two models, for tests: its texts, its plan, and how it is run.
#pragma once

#include <string>
#include <vector>

#include "harmonic/base/json.h"
#include "harmonic/experiment/runner.h"
#include "tests/cli_process.h"
#include "train_fixture.h"

namespace harmonic {

class Experiments : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    file("train.txt", small_text(20000, 1));
    file("valid.txt", small_text(3000, 2));
    write_plan(4);
  }

  void write_plan(int64_t steps) const {
    file("plans/study.toml", fmt::format(R"(
title = "Two widths"
pairs = [["wide", "narrow"]]
[run.data]
train = ["{0}"]
valid = ["{1}"]
cache = "{2}"
[run.train]
steps = {3}
eval_every = 0
checkpoint_every = 1
[variants.wide.model]
d_model = 16
[variants.narrow.model]
d_model = 8
[scales.smoke]
tokens_per_step = 256
[scales.smoke.evaluate]
states = ["cold", "carry"]
[[scales.smoke.grid]]
lengths = [64]
seeds = [1, 2]
[scales.tuned]
tokens_per_step = 256
[scales.tuned.tune]
lr_factors = [1, 900]
variants = ["wide"]
[[scales.tuned.grid]]
variants = ["wide"]
lengths = [64]
seeds = [3]
[scales.diverging]
run.train.lr = 900.0
run.train.clip = 0.0
run.train.warmup = 0.0
run.train.steps = 60
[[scales.diverging.grid]]
lengths = [64]
seeds = [1]
[scales.lost]
run.train.lr = 90.0
run.train.warmup = 0.0
[[scales.lost.grid]]
variants = ["wide"]
lengths = [64]
seeds = [1]
[scales.overflowing]
run.train.lr = 1000.0
run.train.weight_decay = 1000.0
run.train.warmup = 0.0
run.train.schedule = "wsd"
run.train.steps = 1
[[scales.overflowing.grid]]
variants = ["wide"]
lengths = [64]
seeds = [1]
)",
                                         path("train.txt"), path("valid.txt"), path("cache"), steps));
  }

  // Replaces all of `from` in the plan's text.
  void change_plan(const std::string& from, const std::string& to) const {
    std::string text = read_file(path("plans/study.toml"));
    ASSERT_NE(text.find(from), std::string::npos) << from;
    for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size())
      text.replace(at, from.size(), to);
    file("plans/study.toml", text);
  }

  std::vector<std::string> words(const std::string& scale, const std::string& out) const {
    return {"experiment", "study", "--plans", path("plans"), "--scale",
            scale,        "--out", path(out), "--threads",   "1"};
  }
  Outcome run(const std::string& scale, const std::string& out) const {
    return run_harmonic(words(scale, out));
  }
  Json result(const std::string& out, const std::string& id) const {
    const std::filesystem::path file = std::filesystem::path(path(out)) / "runs" / id / "result.json";
    return parse_json(read_file(file), file.string());
  }
};

}  // namespace harmonic
