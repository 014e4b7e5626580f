// harmonic distill, as a child process: its phases, its folder, and what it refuses before anything is
// trained.
#include <gtest/gtest.h>

#include "harmonic/base/file_lock.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/train/metrics.h"
#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

constexpr const char* kPlan = R"([train]
seq_len = 32
batch_size = 2
steps = 3
warmup = 0
eval_every = 0
checkpoint_every = 1
[phase.1]
objective = "layers"
only = "mixers"
[phase.2]
objective = "teacher"
only = "mixers"
[phase.3]
steps = 2
loader = "streams"
carry_state = true
)";

// The program, from the teacher to a student that passes the certificate; stopped and resumed it comes to the
// same bits.
TEST(DistillProgram, RunsItsPhasesAndResumesToTheSameBits) {
  const TemporaryFolder folder;
  const std::string teacher = folder / "teacher", student = folder / "student";
  ASSERT_EQ(
      run_harmonic({"convert", "--from", HARMONIC_SOURCE_DIR "/tests/golden/llama_folder", "--out", teacher})
          .status,
      0);
  ASSERT_EQ(run_harmonic({"convert", "--from", teacher, "--out", student, "--replace", "all"}).status, 0);
  std::string text;
  for (int i = 0; i < 60; ++i) text += "Once upon a time there was a little house by the river. ";
  const std::string data = folder.file("text.txt", text), plan = folder.file("distill.toml", kPlan);
  const auto distill = [&](const std::string& out, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"distill", "--teacher", teacher, "--student", student, "--config",
                                          plan,      "--data",    data,    "--out",     out};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_harmonic(arguments, {"HARMONIC_CACHE=" + (folder / "cache")});
  };
  const std::string whole = folder / "whole", stopped = folder / "stopped";
  const Outcome first = distill(whole, {});
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(run_harmonic({"check", "--model", whole, "--random-tokens", "2048"}).status, 0);
  EXPECT_EQ(distill(whole, {}).status, 2) << "a folder with a run is not written over";
  // Without --student all attention is replaced as by convert.
  const std::string own = folder / "own";
  ASSERT_EQ(
      run_harmonic({"distill", "--teacher", teacher, "--config", plan, "--data", data, "--out", own}).status,
      0);
  EXPECT_EQ(read_file(own + "/model.safetensors"), read_file(whole + "/model.safetensors"));
  // Another copy that loses its last phase and the model.
  std::filesystem::copy(whole, stopped, std::filesystem::copy_options::recursive);
  std::filesystem::remove_all(stopped + "/phase-3");
  std::filesystem::remove_all(stopped + "/phase-2/checkpoint-3");
  std::filesystem::remove(stopped + "/model.safetensors");
  const Outcome resumed = distill(stopped, {"--resume"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(read_file(stopped + "/model.safetensors"), read_file(whole + "/model.safetensors"));
  const Outcome other = run_harmonic({"distill", "--teacher", teacher, "--student", whole, "--config", plan,
                                      "--data", data, "--out", stopped, "--resume"});
  EXPECT_EQ(other.status, 2);
  EXPECT_NE(other.err.find("--student: not the model that the distillation"), std::string::npos) << other.err;
  const Outcome alone =
      run_harmonic({"train", "--config", whole + "/phase-1/run.toml", "--out", folder / "t"});
  EXPECT_EQ(alone.status, 2);
  EXPECT_NE(alone.err.find("needs a teacher"), std::string::npos) << alone.err;
}

constexpr const char* kShort = R"([train]
seq_len = 32
batch_size = 2
steps = 2
warmup = 0
eval_every = 0
)";
constexpr const char* kTwoPhases = R"([phase.1]
objective = "layers"
[phase.2]
objective = "teacher"
)";

// A teacher of two layers of attention with a context of 64, and texts.
class Distill : public ::testing::Test {
 protected:
  Outcome distill(const std::string& phases, std::vector<std::string> more = {},
                  const std::string& out = "") const {
    const std::string plan = folder_.file("distill.toml", kShort + phases);
    more.insert(more.begin(), {"distill", "--teacher", teacher_, "--config", plan});
    if (std::find(more.begin(), more.end(), "--data") == more.end())
      more.insert(more.end(), {"--data", texts_});
    more.insert(more.end(), {"--out", out.empty() ? out_ : out});
    return run_harmonic(more, {"HARMONIC_CACHE=" + (folder_ / "cache")});
  }
  static void expect_refused(const Outcome& outcome, const std::string& why, int status = 2) {
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_NE(outcome.err.find(why), std::string::npos) << why << " in: " << outcome.err;
  }
  static void expect_done(const Outcome& outcome) { EXPECT_EQ(outcome.status, 0) << outcome.err; }

  TemporaryFolder folder_;
  std::string teacher_ =
      make_model_folder(folder_ / "teacher", *make_byte_tokenizer(), 1, [](ModelConfig& config) {
        config.mixer = {"attention"};
        config.n_layers = 2;
        config.ffn_multiple = 2;
        config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
      });
  std::string texts_ = folder_.file("texts", std::string(900, 'x') + "abcdefgh" + std::string(300, 'y'));
  std::string out_ = folder_ / "out";
};

TEST_F(Distill, ResumeWritesOverNoModelButItsOwn) {
  const std::string other = folder_ / "other", link = folder_ / "link";
  std::filesystem::copy(teacher_, other);
  std::filesystem::create_directory_symlink(teacher_, link);
  const std::string before = read_file(teacher_ + "/model.safetensors");
  expect_refused(distill(kTwoPhases, {"--resume"}, teacher_), "is the folder of --teacher");
  expect_refused(distill(kTwoPhases, {"--resume"}, link), "is the folder of --teacher");
  expect_refused(distill(kTwoPhases, {"--resume", "--student", other}, other), "is the folder of --student");
  expect_refused(distill(kTwoPhases, {"--resume"}, other), "holds no distillation");
  for (const std::string& path : {teacher_, other}) {
    EXPECT_EQ(read_file(path + "/model.safetensors"), before);
    EXPECT_FALSE(is_there(path + "/phase-1"));
    EXPECT_FALSE(is_there(path + "/.lock"));
  }
}

TEST_F(Distill, ResumeTakesTheSameModelsOnly) {
  expect_done(distill(kTwoPhases));
  std::string config = read_file(teacher_ + "/config.json");
  const size_t at = config.find("\"window\": 0");
  ASSERT_NE(at, std::string::npos) << config;
  write_file(teacher_ + "/config.json", config.replace(at, 11, "\"window\": 16"));
  expect_refused(distill(kTwoPhases, {"--resume"}), "--teacher: not the model that the distillation");
}

TEST_F(Distill, AModelWithNumbersThatAreNoneIsRefusedAsDamaged) {
  LoadedModel loaded = load_model_folder(teacher_, cpu_backend());
  loaded.model->parameters().find("layers.0.mixer.v_proj.weight")->value.as<float>()[5] = std::nanf("");
  save_model_folder(teacher_, *loaded.model, *loaded.tokenizer);
  expect_refused(distill(kTwoPhases), "is not finite", 1);
  EXPECT_FALSE(is_there(out_ + "/phase-1"));
}

TEST_F(Distill, ResumeBeginsWhereNothingIsYet) {
  expect_done(distill(kTwoPhases, {"--resume"}));
  const std::string empty = folder_ / "empty";
  std::filesystem::create_directory(empty);
  expect_done(distill(kTwoPhases, {"--resume"}, empty));
  EXPECT_EQ(read_file(empty + "/model.safetensors"), read_file(out_ + "/model.safetensors"));
  expect_refused(distill(kTwoPhases), "holds a distillation already");
}

TEST_F(Distill, AResumedPhaseFollowsFromTheOneBefore) {
  expect_done(distill(kTwoPhases));
  const std::string model = out_ + "/model.safetensors", before = read_file(model);
  const std::string longer =
      "[phase.1]\nobjective = \"layers\"\nsteps = 5\n[phase.2]\nobjective = \"teacher\"\n";
  expect_refused(distill(longer, {"--resume"}), "phase 1 has 5 steps in it and has taken 2");
  expect_refused(distill(std::string(kTwoPhases) + "lr = 0.25\n", {"--resume"}), "phase 2: train.lr = 0.25");
  expect_refused(distill("[phase.1]\nobjective = \"layers\"\n", {"--resume"}),
                 "has 1 phases, and 2 are there");
  const std::string first = out_ + "/phase-1", aside = folder_ / "aside";
  std::filesystem::rename(first, aside);
  expect_refused(distill(kTwoPhases, {"--resume"}), "phase-2: is there and");
  EXPECT_FALSE(is_there(first));
  // The first phase of another distillation, on other texts.
  const std::string other = folder_ / "other";
  expect_done(distill(kTwoPhases, {"--data", folder_.file("others", std::string(1000, 'q'))}, other));
  std::filesystem::rename(other + "/phase-1", first);
  expect_refused(distill(kTwoPhases, {"--resume"}), "phase-2: began with other weights");
  EXPECT_EQ(read_file(model), before);
  // What follows is trained again where its folder is removed.
  std::filesystem::remove_all(out_ + "/phase-2");
  expect_done(distill(kTwoPhases, {"--resume"}));
  EXPECT_NE(read_file(model), before);
}

TEST_F(Distill, TheLastPhaseMayGetLongerAndBeFollowed) {
  expect_done(distill(kTwoPhases));
  const std::string longer = std::string(kTwoPhases) + "steps = 4\n";
  expect_done(distill(longer, {"--resume"}));
  EXPECT_TRUE(is_there(out_ + "/phase-2/checkpoint-4"));
  const std::string before = read_file(out_ + "/model.safetensors");
  expect_done(distill(longer + "[phase.3]\n", {"--resume"}));
  EXPECT_NE(read_file(out_ + "/model.safetensors"), before);
}

TEST_F(Distill, WhatNoPhaseCanDoIsRefusedBeforeTheFirstStep) {
  const auto second = [](const std::string& keys) { return "[phase.1]\n[phase.2]\n" + keys; };
  expect_refused(distill(second("objective = \"teacher\"\nseq_len = 128\n")),
                 "phase 2: train.seq_len = 128: the teacher takes texts of 64 tokens at most");
  expect_refused(distill(second("objective = \"teacher\"\nchunk_len = 16\n")),
                 "phase 2: a sequence of 32 tokens does not fit train.memory_mb");
  expect_refused(distill(second("objective = \"layers\"\n"), {"--student", teacher_}),
                 "phase 2: objective \"layers\": the student has the teacher's mixers");
  expect_refused(distill(second("carry_state = true\n")), "phase 2: train.carry_state = true");
  expect_refused(distill(second("precision = \"bf16\"\n")),
                 "phase 2: train.precision = \"bf16\": phase 1 has \"f32\"");
  expect_refused(distill(kTwoPhases, {"--set", "model.d_model=8"}),
                 "a student's shape is that of its folder");
  EXPECT_FALSE(is_there(out_));
}

TEST_F(Distill, AStudentWhoseTeacherWasMadeOfItIsRefused) {
  const std::string made = folder_ / "made";
  ASSERT_EQ(run_harmonic({"convert", "--from", teacher_, "--out", made, "--replace", "0"}).status, 0);
  const std::string plan = folder_.file("distill.toml", std::string(kShort) + kTwoPhases);
  expect_refused(run_harmonic({"distill", "--teacher", made, "--student", teacher_, "--config", plan,
                               "--data", texts_, "--out", out_}),
                 "layer 0 is attention, the teacher's matrix");
  EXPECT_FALSE(is_there(out_));
}

TEST_F(Distill, LearnsInBf16WhereTheProcessorHasIt) {
  if (!multiplies_in_bf16()) GTEST_SKIP() << "this processor has no products in bf16";
  const Outcome run = distill(kTwoPhases, {"--set", "train.precision=bf16"});
  expect_done(run);
  EXPECT_NE(run.err.find("products in bf16"), std::string::npos) << run.err;
  const std::string f32 = folder_ / "f32";
  expect_done(distill(kTwoPhases, {}, f32));
  EXPECT_NE(read_file(out_ + "/model.safetensors"), read_file(f32 + "/model.safetensors"));
}

TEST_F(Distill, ATypoInTheTextsLeavesNothing) {
  const Outcome typo = distill(kTwoPhases, {"--data", folder_ / "text"});
  EXPECT_NE(typo.status, 0);
  EXPECT_NE(typo.err.find(folder_ / "text"), std::string::npos) << typo.err;
  EXPECT_FALSE(is_there(out_));
  // Of the second phase too.
  const std::string plan =
      folder_.file("own.toml", std::string("[data]\ntrain = [\"") + texts_ + "\"]\n" + kShort + kTwoPhases +
                                   "[phase.2.data]\ntrain = [\"missing\"]\n");
  EXPECT_NE(run_harmonic({"distill", "--teacher", teacher_, "--config", plan, "--out", out_}).status, 0);
  EXPECT_FALSE(is_there(out_));
  expect_done(distill(kTwoPhases));
}

TEST_F(Distill, OneProcessDistilsInAFolder) {
  expect_done(distill(kTwoPhases));
  const FileLock lock(out_ + "/.lock", FileLock::Kind::exclusive);
  ASSERT_EQ(lock.state(), FileLock::State::held);
  expect_refused(distill(kTwoPhases, {"--resume"}), "another process distils there", 1);
}

TEST_F(Distill, ADistanceFromTheTeacherClaimsNoBits) {
  expect_done(distill(kTwoPhases));
  const Metrics layers = read_metrics(out_ + "/phase-1/metrics.jsonl");
  const Metrics logits = read_metrics(out_ + "/phase-2/metrics.jsonl");
  ASSERT_EQ(layers.steps.size(), 2u);
  for (const StepMetrics& step : layers.steps) {
    EXPECT_TRUE(std::isnan(step.bits_per_byte)) << step.bits_per_byte;
    EXPECT_GT(step.loss, 0);
  }
  ASSERT_FALSE(logits.steps.empty());
  for (const StepMetrics& step : logits.steps) EXPECT_TRUE(std::isnan(step.bits_per_byte));
  EXPECT_EQ(read_file(out_ + "/phase-1/metrics.jsonl").find("bits_per_byte"), std::string::npos);
  const Outcome report = run_harmonic({"report", out_ + "/phase-1", "--out", folder_ / "report.html"});
  expect_done(report);
}

}  // namespace
}  // namespace harmonic
