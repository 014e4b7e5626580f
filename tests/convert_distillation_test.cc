// A student learns from the model it was made of.
#include "harmonic/convert/distillation.h"

#include <gtest/gtest.h>

#include "emulated_cuda.h"
#include "harmonic/base/error.h"
#include "harmonic/convert/distill_plan.h"
#include "harmonic/convert/surgery.h"
#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/train/backpropagation.h"
#include "harmonic/train/optimizer.h"
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

// A teacher, and a student made of it, by default on the backend of double precision.
struct Pair {
  // `replaced`: layers; all where there are none.
  explicit Pair(std::vector<int64_t> replaced = {}, const Backend& backend = reference_backend())
      : teacher(teacher_config(), backend, false) {
    initialise_for_test(teacher, 5);
    SurgeryOptions options;
    options.layers = std::move(replaced);
    const Surgery surgery = replace_attention(teacher, options);
    student = std::make_unique<Model>(surgery.model->config(), backend, true);
    for (size_t i = 0; i < student->parameters().size(); ++i) {
      const Tensor &from = surgery.model->parameters()[i].value, &to = student->parameters()[i].value;
      std::memcpy(to.data, from.data, static_cast<size_t>(from.size() * size_of(from.dtype)));
    }
    const std::vector<int32_t> text = random_text(41, 30, 1);
    batch.tokens.assign(text.begin(), text.end() - 1);
    batch.targets.assign(text.begin() + 1, text.end());
    batch.offsets = {0, 23, 40};
    batch.segments = {{0, 0, false}, {1, 23, false}};
    batch.sequences = 2;
    batch.target_count = 40;
  }
  std::unique_ptr<Objective> distance(const char* kind, double share = 0) {
    return make_distillation(kind, teacher, *student, share, batch, pool);
  }
  double loss(const Objective& objective) { return loss(objective, batch); }
  // `most_rows` go through together; 0 is as many as fit.
  double loss(const Objective& objective, const Batch& some, int64_t most_rows = 0) {
    Backpropagation backpropagation(*student, pool, 1 << 26, most_rows, 4, objective);
    return backpropagation.run(some, {}, 1).nats;
  }
  std::vector<double> gradient(const std::string& name) {
    const Tensor& grad = student->parameters().find(name)->grad;
    return {grad.as<double>(), grad.as<double>() + grad.size()};
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
    expect_gradients_equal_differences(pair, *pair.distance(kind, 0.7));
  }
}

// Of every parameter, one after the other.
std::vector<float> gradients(const Model& model) {
  std::vector<float> all;
  for (size_t i = 0; i < model.parameters().size(); ++i)
    if (const Tensor& grad = model.parameters()[i].grad; grad)
      all.insert(all.end(), grad.as<float>(), grad.as<float>() + grad.size());
  return all;
}

TEST(Distillation, OnADeviceIsThatOnTheProcessor) {
  std::vector<const Backend*> devices = {&emulated_cuda_device_backend()};
  if (a_card_is_tested()) devices.push_back(cuda_plugin().f32);
  for (const Backend* device : devices) {
    for (const char* kind : {"layers", "teacher"}) {
      SCOPED_TRACE(fmt::format("{}, {}", device->name, kind));
      Pair expected({}, cpu_backend()), found({}, *device);
      const double loss = expected.loss(*expected.distance(kind, 0.7));
      EXPECT_GT(loss, 0);
      EXPECT_NEAR(found.loss(*found.distance(kind, 0.7)), loss, 1e-4 * loss);
      const std::vector<float> of_cpu = gradients(*expected.student), of_device = gradients(*found.student);
      ASSERT_EQ(of_device.size(), of_cpu.size());
      double distance = 0, length = 0;
      for (size_t i = 0; i < of_cpu.size(); ++i) {
        distance += (of_device[i] - of_cpu[i]) * (of_device[i] - of_cpu[i]);
        length += of_cpu[i] * of_cpu[i];
      }
      EXPECT_GT(length, 0);
      EXPECT_LT(distance, 1e-6 * length);
    }
  }
}

TEST(Distillation, LayersDoNotSeeEachOther) {
  Pair pair;
  const auto objective = pair.distance("layers");
  const auto gradient_of_layer_1 = [&] {
    Backpropagation backpropagation(*pair.student, pair.pool, 1 << 26, 0, 4, *objective);
    backpropagation.run(pair.batch, {}, 1);
    return pair.gradient("layers.1.mixer.q_proj.weight");
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
  const auto objective = make_distillation("teacher", pair.teacher, same, 1, pair.batch, pair.pool);
  Backpropagation backpropagation(same, pair.pool, 1 << 26, 0, 4, *objective);
  EXPECT_NEAR(backpropagation.run(pair.batch, {}, 1).nats, 0, 1e-9);
  EXPECT_THROW(make_distillation("layers", pair.teacher, same, 0, pair.batch, pair.pool), Error);
}

TEST(Distillation, ASequenceThatDoesNotFitIsRefusedAndNotCut) {
  Pair pair;
  const auto objective = pair.distance("teacher", 1);
  Backpropagation backpropagation(*pair.student, pair.pool, 1 << 26, 8, 4, *objective);
  try {
    backpropagation.run(pair.batch, {}, 1);
    FAIL() << "a sequence was cut";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("raise train.memory_mb"), std::string::npos) << error.what();
  }
}

// One sequence of a batch as a batch of its own.
Batch sequence_alone(const Batch& batch, int64_t s) {
  const auto begin = batch.offsets[static_cast<size_t>(s)], end = batch.offsets[static_cast<size_t>(s) + 1];
  Batch alone;
  alone.tokens.assign(batch.tokens.begin() + begin, batch.tokens.begin() + end);
  alone.targets.assign(batch.targets.begin() + begin, batch.targets.begin() + end);
  alone.offsets = {0, end - begin};
  alone.segments = {{0, 0, false}};
  alone.sequences = 1;
  alone.target_count = end - begin;
  return alone;
}

TEST(Distillation, NoLossDependsOnWhatElseIsInAPass) {
  for (const char* kind : {"layers", "teacher"}) {
    SCOPED_TRACE(kind);
    Pair pair;
    const auto objective = pair.distance(kind, 0.5);
    const double together = pair.loss(*objective);
    const double apart = pair.loss(*objective, sequence_alone(pair.batch, 0)) +
                         pair.loss(*objective, sequence_alone(pair.batch, 1));
    EXPECT_NEAR(apart, together, 1e-9 * together);
  }
}

TEST(Distillation, DocumentsOfASequenceThatDoesNotFitGoOneByOne) {
  Pair pair;
  const auto objective = pair.distance("teacher", 1);
  const double together = pair.loss(*objective);
  pair.batch.segments[1].sequence = 0;
  pair.batch.sequences = 1;
  EXPECT_NEAR(pair.loss(*objective, pair.batch, 24), together, 1e-9 * together);
}

TEST(Distillation, OnLayersNothingButTheReplacedMixersIsUpdated) {
  for (const char* only : {"all", "mixers"}) {
    SCOPED_TRACE(only);
    Pair pair({0});
    const auto objective = pair.distance("layers");
    pair.loss(*objective);
    TrainConfig config;
    config.only = only;
    config.weight_decay = 0.1;
    Parameters& parameters = pair.student->parameters();
    std::vector<std::vector<double>> before;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor& value = parameters[i].value;
      before.emplace_back(value.as<double>(), value.as<double>() + value.size());
    }
    Optimizer optimizer(parameters, reference_backend(), config, *objective);
    Arena scratch;
    Context context{pair.pool, scratch};
    optimizer.update(context, 1, 1, 1);
    int changed = 0;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      const std::vector<double> after(p.value.as<double>(), p.value.as<double>() + p.value.size());
      if (p.name.starts_with("layers.0.mixer.")) {
        changed += after != before[i];
      } else {
        EXPECT_EQ(after, before[i]) << p.name;
      }
    }
    EXPECT_GT(changed, 10);
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

}  // namespace
}  // namespace harmonic
