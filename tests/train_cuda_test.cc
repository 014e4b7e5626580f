// Training by the cuda backend's kernels, run on the processor as a card would run them: later, in memory of
// its own. With a card (HARMONIC_TEST_DEVICE=cuda) by the card, too.
#include <gtest/gtest.h>

#include "emulated_cuda.h"
#include "harmonic/ops/cuda_plugin.h"
#include "small_models.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

struct Trained {
  std::vector<double> losses;
  std::vector<double> norms;
  std::vector<float> weights;
};

Trained train(RunConfig config, const Backend& backend, int64_t steps) {
  const TrainingData data = small_data();
  take_vocabulary(config.model, *data.tokenizer);
  config.train.steps = 40;  // of the schedule
  config.train.warmup = 0;
  const std::unique_ptr<Model> model = first_model(config, backend);
  ThreadPool pool(1);
  Learner learner(*model, config, data.train, pool);
  Trained result;
  for (int64_t step = 0; step < steps; ++step) {
    const StepReport report = learner.advance();
    result.losses.push_back(report.loss);
    result.norms.push_back(report.gradient_norm);
  }
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    const Tensor& value = model->parameters()[i].value;
    result.weights.insert(result.weights.end(), value.as<float>(), value.as<float>() + value.size());
  }
  return result;
}

void expect_close(const Trained& found, const Trained& expected, double tolerance, const std::string& where) {
  for (size_t step = 0; step < expected.losses.size(); ++step) {
    EXPECT_NEAR(found.losses[step], expected.losses[step], tolerance * expected.losses[step])
        << where << ", step " << step + 1;
    EXPECT_NEAR(found.norms[step], expected.norms[step], 20 * tolerance * expected.norms[step])
        << where << ", step " << step + 1;
  }
  EXPECT_LT(expected.losses.back(), expected.losses.front())
      << where << " learns nothing, which shows nothing";
}

RunConfig run_of(const ModelConfig& model) {
  RunConfig config = small_run();
  config.model = model;
  config.model.attention.context = std::max<int64_t>(config.model.attention.context, config.train.seq_len);
  config.train.lr = 2e-2;
  return config;
}

// Every kind of model but those that differ in what the host does.
TEST(CudaTraining, LosesAsTheCpuDoesStepByStep) {
  for (const NamedConfig& named : small_configs()) {
    RunConfig config = run_of(named.config);
    if (named.name.find("flat") == std::string::npos) config.train.optimizer = "muon";
    const Trained expected = train(config, cpu_backend(), 4);
    const Trained later = train(config, emulated_cuda_device_backend(), 4);
    expect_close(later, expected, 2e-3, named.name);
    if (a_card_is_tested()) {
      expect_close(train(config, *cuda_plugin().f32, 4), expected, 2e-3, named.name + " on the card");
      expect_close(train(config, *cuda_plugin().bf16, 4), expected, 2e-2,
                   named.name + " on the card in bf16");
    }
  }
}

TEST(CudaTraining, RepeatsToTheBit) {
  const RunConfig config = run_of(small_configs()[4].config);
  std::vector<const Backend*> backends = {&emulated_cuda_device_backend()};
  if (a_card_is_tested()) backends.insert(backends.end(), {cuda_plugin().f32, cuda_plugin().bf16});
  for (const Backend* backend : backends) {
    const Trained first = train(config, *backend, 3), again = train(config, *backend, 3);
    EXPECT_EQ(first.losses, again.losses) << backend->name;
    EXPECT_EQ(first.weights, again.weights) << backend->name;
  }
}

TEST(CudaTraining, ProductsInBf16LoseAlmostAsMuch) {
  for (const size_t which : {0, 4}) {
    const RunConfig config = run_of(small_configs()[which].config);
    const Trained exact = train(config, cpu_backend(), 4),
                  rounded = train(config, emulated_cuda_bf16_backend(), 4);
    expect_close(rounded, exact, 2e-2, small_configs()[which].name);
    EXPECT_NE(rounded.losses, exact.losses);
  }
}

// Sequences that go by chunks, whose states the host hands on, and states that are carried from batch to
// batch.
TEST(CudaTraining, ChunksAndCarriedStatesAreThoseOfTheCpu) {
  for (const size_t which : {0, 5}) {
    RunConfig config = run_of(small_configs()[which].config);
    config.train.chunk_len = 16;
    config.train.loader = "streams";
    config.train.carry_state = true;
    const Trained expected = train(config, cpu_backend(), 3);
    expect_close(train(config, emulated_cuda_device_backend(), 3), expected, 2e-3,
                 small_configs()[which].name);
  }
}

}  // namespace
}  // namespace harmonic
