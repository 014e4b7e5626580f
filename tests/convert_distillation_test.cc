// A student learns from the model it was made of.
#include "harmonic/convert/distillation.h"

#include <gtest/gtest.h>

#include "harmonic/base/error.h"
#include "harmonic/convert/distill_plan.h"
#include "harmonic/convert/surgery.h"
#include "harmonic/train/backpropagation.h"
#include "harmonic/train/optimizer.h"
#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

ModelConfig teacher_config() {
  ModelConfig config;
  config.vocab_size = 30;
  config.mixer = {"attention"};
  config.d_model = 16;
  config.n_layers = 2;
  config.ffn_multiple = 2;
  config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
  return config;
}

// A teacher, and a student made of it, on the backend of double precision.
struct Pair {
  Pair() : teacher(teacher_config(), reference_backend(), false) {
    initialise_for_test(teacher, 5);
    const Surgery surgery = replace_attention(teacher, {});
    student = std::make_unique<Model>(surgery.model->config(), reference_backend(), true);
    for (size_t i = 0; i < student->parameters().size(); ++i) {
      const Tensor &from = surgery.model->parameters()[i].value, &to = student->parameters()[i].value;
      std::memcpy(to.data, from.data, static_cast<size_t>(from.size()) * sizeof(double));
    }
    const std::vector<int32_t> text = random_text(41, 30, 1);
    batch.tokens.assign(text.begin(), text.end() - 1);
    batch.targets.assign(text.begin() + 1, text.end());
    batch.offsets = {0, 23, 40};
    batch.segments = {{0, 0, false}, {1, 23, false}};
    batch.sequences = 2;
    batch.target_count = 40;
  }
  double loss(const Objective& objective) {
    Backpropagation backpropagation(*student, pool, 1 << 26, 0, 4, objective);
    return backpropagation.run(batch, {}, 1).nats;
  }

  ThreadPool pool{1};
  Model teacher;
  std::unique_ptr<Model> student;
  Batch batch;
};

// The gradient of one number of every parameter that the objective reaches.
void expect_gradients_equal_differences(Pair& pair, const Objective& objective) {
  Backpropagation backpropagation(*pair.student, pair.pool, 1 << 26, 0, 4, objective);
  backpropagation.run(pair.batch, {}, 1);
  std::vector<double> found;
  for (size_t i = 0; i < pair.student->parameters().size(); ++i)
    found.push_back(pair.student->parameters()[i].grad.as<double>()[0]);
  int reached = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    constexpr double kStep = 1e-5;
    double& number = pair.student->parameters()[i].value.as<double>()[0];
    const double was = number;
    number = was + kStep;
    const double above = pair.loss(objective);
    number = was - kStep;
    const double below = pair.loss(objective);
    number = was;
    const double expected = (above - below) / (2 * kStep);
    EXPECT_NEAR(found[i], expected, 1e-6 * (1 + std::abs(expected))) << pair.student->parameters()[i].name;
    reached += expected != 0;
  }
  EXPECT_GT(reached, 10) << "the objective reaches next to nothing";
}

TEST(Distillation, GradientsOfBothObjectivesEqualCentralDifferences) {
  for (const char* kind : {"layers", "teacher"}) {
    SCOPED_TRACE(kind);
    Pair pair;
    expect_gradients_equal_differences(pair, *make_distillation(kind, pair.teacher, *pair.student, 0.7));
  }
}

TEST(Distillation, LayersDoNotSeeEachOther) {
  Pair pair;
  const auto objective = make_distillation("layers", pair.teacher, *pair.student, 0);
  const auto gradient_of_layer_1 = [&] {
    Backpropagation backpropagation(*pair.student, pair.pool, 1 << 26, 0, 4, *objective);
    backpropagation.run(pair.batch, {}, 1);
    const Tensor& grad = pair.student->parameters().find("layers.1.mixer.q_proj.weight")->grad;
    return std::vector<double>(grad.as<double>(), grad.as<double>() + grad.size());
  };
  const std::vector<double> before = gradient_of_layer_1();
  pair.student->parameters().find("layers.0.mixer.q_proj.weight")->value.as<double>()[3] += 5;
  pair.student->parameters().find("layers.0.ffn.up.weight")->value.as<double>()[3] += 5;
  EXPECT_EQ(gradient_of_layer_1(), before);
}

TEST(Distillation, AStudentThatIsItsTeacherHasNothingToLearn) {
  Pair pair;
  Model same(teacher_config(), reference_backend(), true);
  initialise_for_test(same, 5);
  const auto objective = make_distillation("teacher", pair.teacher, same, 1);
  Backpropagation backpropagation(same, pair.pool, 1 << 26, 0, 4, *objective);
  EXPECT_NEAR(backpropagation.run(pair.batch, {}, 1).nats, 0, 1e-9);
  EXPECT_THROW(make_distillation("layers", pair.teacher, same, 0), Error);
}

TEST(Distillation, ASequenceThatDoesNotFitIsRefusedAndNotCut) {
  Pair pair;
  const auto objective = make_distillation("teacher", pair.teacher, *pair.student, 1);
  Backpropagation backpropagation(*pair.student, pair.pool, 1 << 26, 8, 4, *objective);
  try {
    backpropagation.run(pair.batch, {}, 1);
    FAIL() << "a sequence was cut";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("raise train.memory_mb"), std::string::npos) << error.what();
  }
}

TEST(Optimizer, OnlyMixersLeavesTheRestAsItIs) {
  Pair pair;
  TrainConfig config;
  config.only = "mixers";
  config.weight_decay = 0.1;
  Parameters& parameters = pair.student->parameters();
  Optimizer optimizer(parameters, reference_backend(), config);
  std::vector<std::vector<double>> before;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    before.emplace_back(p.value.as<double>(), p.value.as<double>() + p.value.size());
    std::fill_n(p.grad.as<double>(), p.grad.size(), 1.0);
  }
  Arena scratch;
  Context context{pair.pool, scratch};
  optimizer.update(context, 1, 1, 1);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    const bool mixer = p.name.find(".mixer.") != std::string::npos;
    EXPECT_EQ(p.value.as<double>()[0] != before[i][0], mixer) << p.name;
    EXPECT_EQ(p.grad.as<double>()[0], 0) << p.name;
  }
}

TEST(DistillPlan, APhaseHasTheSharedSettingsAndItsOwn) {
  const TemporaryFolder folder;
  const std::string path = folder.file("distill.toml", R"([data]
train = ["a.txt"]
[train]
seq_len = 32
lr = 1e-3
[phase.1]
objective = "layers"
only = "mixers"
[phase.2]
objective = "text"
lr = 2e-4
[phase.2.data]
train = ["b.txt"]
)");
  const std::vector<DistillPhase> plan = load_distill_plan(path, teacher_config(), {}, {}, {});
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].config.train.objective, "layers");
  EXPECT_EQ(plan[0].config.train.seq_len, 32);
  EXPECT_EQ(plan[1].config.train.lr, 2e-4);
  EXPECT_EQ(plan[1].config.train.only, "all");
  EXPECT_TRUE(plan[0].config.data.train[0].ends_with("a.txt"));
  EXPECT_TRUE(plan[1].config.data.train[0].ends_with("b.txt"));
  const auto refusal = [&](const std::string& toml) -> std::string {
    try {
      load_distill_plan(folder.file("bad.toml", toml), teacher_config(), {}, {}, {});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal("[train]\nlr = 1\n").find("no phase"), std::string::npos);
  EXPECT_NE(refusal("[phase.2]\nlr = 1\n").find("counted from 1"), std::string::npos);
  EXPECT_NE(refusal("[phase.1]\nlrr = 1\n").find("lr"), std::string::npos);
  EXPECT_NE(refusal("[fase.1]\nlr = 1\n").find("unknown section [fase]"), std::string::npos);
}

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
TEST(Distill, RunsItsPhasesAndResumesToTheSameBits) {
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

}  // namespace
}  // namespace harmonic
