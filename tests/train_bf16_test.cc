// Training with matrix products in bf16 on the processor: near that in f32, the same bits whatever the
// threads and however often it stopped, and models that pass the certificate.
#include <gtest/gtest.h>

#include "harmonic/eval/certificate.h"
#include "harmonic/ops/matmul.h"
#include "small_models.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

class Bf16Training : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    if (!multiplies_in_bf16()) GTEST_SKIP() << "this processor has no bf16 products";
  }
  static RunConfig run_of(const ModelConfig& model, int64_t steps) {
    RunConfig config = small_run();
    config.model = model;
    config.model.attention.context = std::max<int64_t>(config.model.attention.context, config.train.seq_len);
    take_vocabulary(config.model, *make_byte_tokenizer());
    config.train.steps = steps;
    config.train.precision = "bf16";
    return config;
  }
  // The gradient of the first batch, before clipping, parameter by parameter.
  static std::vector<std::vector<double>> first_gradient(const RunConfig& config, const Backend& backend) {
    const TrainingData data = small_data();
    ThreadPool pool(2);
    const auto model = first_model(config, backend);
    const auto loader = make_loader(data.train, {.seq_len = config.train.seq_len, .batch_size = 4});
    const Batch& batch = loader->next(0);
    Backpropagation backpropagation(*model, pool, int64_t{1} << 28);
    backpropagation.run(batch, {}, 1 / static_cast<double>(batch.target_count));
    std::vector<std::vector<double>> gradients;
    for (size_t i = 0; i < model->parameters().size(); ++i) {
      const Tensor& grad = model->parameters()[i].grad;
      std::vector<double>& numbers = gradients.emplace_back();
      for (int64_t k = 0; k < grad.size(); ++k)
        numbers.push_back(grad.dtype == DType::f64 ? grad.as<double>()[k] : grad.as<float>()[k]);
    }
    return gradients;
  }
  static std::vector<double> losses(const RunConfig& config, const Backend& backend) {
    const TrainingData data = small_data();
    ThreadPool pool(2);
    const auto model = first_model(config, backend);
    Learner learner(*model, config, data.train, pool);
    std::vector<double> result;
    while (learner.steps_done() < learner.total_steps()) result.push_back(learner.advance().loss);
    return result;
  }
};

double relative_difference(const std::vector<std::vector<double>>& a,
                           const std::vector<std::vector<double>>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t k = 0; k < a[i].size(); ++k) {
      difference += (a[i][k] - b[i][k]) * (a[i][k] - b[i][k]);
      size += b[i][k] * b[i][k];
    }
  }
  return std::sqrt(difference / size);
}

// Of all models: the definition in double precision, within what numbers that are rounded the other way
// come to; and the exact gradient, within 2 % of its norm.
TEST_F(Bf16Training, TheGradientIsThatOfTheDefinitionAndNearThatOfF32) {
  for (const NamedConfig& named : small_configs()) {
    const RunConfig config = run_of(named.config, 1);
    const auto found = first_gradient(config, cpu_bf16_backend());
    EXPECT_LT(relative_difference(found, first_gradient(config, reference_bf16_backend())), 2e-3)
        << named.name;
    const double by = relative_difference(found, first_gradient(config, cpu_backend()));
    EXPECT_LT(by, 2e-2) << named.name;
    EXPECT_GT(by, 1e-5) << named.name << ": nothing was rounded";
  }
}

TEST_F(Bf16Training, TheLossFollowsThatOfF32) {
  for (const size_t which : {0, 5}) {
    RunConfig config = run_of(small_configs()[which].config, 60);
    config.train.lr = 1e-2;
    const std::vector<double> exact = losses(config, cpu_backend()),
                              rounded = losses(config, cpu_bf16_backend());
    for (size_t step = 0; step < exact.size(); ++step)
      EXPECT_NEAR(rounded[step], exact[step], 0.02 * exact[step]) << "step " << step + 1;
    EXPECT_LT(exact.back(), 0.7 * exact.front()) << "it learns little, which shows little";
    EXPECT_NE(rounded, exact);
  }
}

TEST_F(Bf16Training, ThreadsAndAStopDoNotChangeABit) {
  for (const char* form : {"windows", "carried", "muon", "chunked"}) {
    RunConfig config = run_of(small_configs()[4].config, 12);
    if (form == std::string("carried")) config.train.loader = "streams";
    config.train.carry_state = form == std::string("carried");
    if (form == std::string("muon")) config.train.optimizer = "muon";
    if (form == std::string("chunked")) config.train.chunk_len = 17;
    SmallRun whole(config, folder_ / "whole", 1, cpu_bf16_backend());
    whole.trainer.run();
    SmallRun(config, folder_ / "run", 2, cpu_bf16_backend()).be_killed_after(5);
    SmallRun rest(config, folder_ / "run", 2, cpu_bf16_backend());
    rest.resume().trainer.run();
    EXPECT_EQ(rest.weights(), whole.weights()) << form;
    SmallRun exact(config, folder_ / "exact");
    exact.trainer.run();
    EXPECT_NE(exact.weights(), whole.weights()) << form << ": nothing was rounded";
    for (const char* name : {"whole", "run", "exact"}) fs::remove_all(folder_ / name);
  }
}

// In the precision that it was trained in, and in f32, in which it will run.
TEST_F(Bf16Training, ATrainedModelPassesTheCertificate) {
  const RunConfig config = run_of(small_configs()[5].config, 12);
  SmallRun run(config, folder_ / "run", 2, cpu_bf16_backend());
  run.trainer.run();
  for (const Backend* backend : {&cpu_bf16_backend(), &cpu_backend()}) {
    for (const bool trained : {true, false}) {
      Model model(config.model, *backend, trained);
      for (size_t i = 0; i < model.parameters().size(); ++i) {
        const Tensor& from = run.model->parameters()[i].value;
        std::copy_n(from.as<float>(), from.size(), model.parameters()[i].value.as<float>());
      }
      const Certificate certificate = trained ? certify(model, run.pool, {.random_tokens = 2048})
                                              : certify_for_measurement(model, run.pool);
      for (const CertificateTest& test : certificate.tests)
        EXPECT_TRUE(test.passed) << backend->name << ": " << test.name << ": " << test.detail;
    }
  }
}

}  // namespace
}  // namespace harmonic
