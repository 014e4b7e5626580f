#include "harmonic/train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "train_fixture.h"

namespace harmonic {
namespace {

TEST(Optimizer, DecaysMatricesAlone) {
  TrainConfig config;
  config.weight_decay = 0.3;
  EXPECT_EQ(group_of(Role::matrix, config).weight_decay, 0.3);
  EXPECT_EQ(group_of(Role::embedding, config).weight_decay, 0);
  EXPECT_EQ(group_of(Role::vector, config).weight_decay, 0);
}

TEST(Optimizer, GivesMuonTheMatricesAtItsOwnRateAndAdamTheRest) {
  TrainConfig config;
  config.lr = 0.01;
  config.muon_lr = 0.05;
  EXPECT_FALSE(group_of(Role::matrix, config).muon);
  EXPECT_EQ(group_of(Role::matrix, config).peak_lr, 0.01);
  config.optimizer = "muon";
  EXPECT_TRUE(group_of(Role::matrix, config).muon);
  EXPECT_EQ(group_of(Role::matrix, config).peak_lr, 0.05);
  for (const Role role : {Role::embedding, Role::vector}) {
    EXPECT_FALSE(group_of(role, config).muon);
    EXPECT_EQ(group_of(role, config).peak_lr, 0.01);
  }
}

class OptimizerStep : public testing::Test {
 protected:
  OptimizerStep() {
    matrix_ = &parameters_.add("w", {2, 2}, Role::matrix, Initial::constant(1));
    vector_ = &parameters_.add("b", {2}, Role::vector, Initial::constant(1));
    parameters_.allocate(reference_backend(), true);
    parameters_.initialise(1);
    for (int i = 0; i < 4; ++i) matrix_->grad.as<double>()[i] = 3;
    for (int i = 0; i < 2; ++i) vector_->grad.as<double>()[i] = 4;
  }
  ThreadPool pool_{1};
  Arena scratch_;
  Context context_{pool_, scratch_};
  Parameters parameters_;
  Parameter *matrix_, *vector_;
  TrainConfig config_;
};

TEST_F(OptimizerStep, TakesTheNormOverAllParameters) {
  const Optimizer optimizer(parameters_, reference_backend(), config_);
  EXPECT_DOUBLE_EQ(optimizer.gradient_norm(context_), std::sqrt(4 * 9.0 + 2 * 16.0));
}

TEST_F(OptimizerStep, SeesAGradientThatIsNotFinite) {
  vector_->grad.as<double>()[1] = std::numeric_limits<double>::quiet_NaN();
  const Optimizer optimizer(parameters_, reference_backend(), config_);
  EXPECT_FALSE(std::isfinite(optimizer.gradient_norm(context_)));
}

TEST_F(OptimizerStep, FollowsAdamWsFormulaAndLeavesGradientsZero) {
  config_.lr = 0.1;
  config_.weight_decay = 0.5;
  Optimizer optimizer(parameters_, reference_backend(), config_);
  optimizer.update(context_, 1, 0.5, 1);
  // The first step of Adam moves by the rate, whatever the gradient.
  EXPECT_NEAR(matrix_->value.as<double>()[0], 1 - 0.05 * 0.5 - 0.05, 1e-8);
  EXPECT_NEAR(vector_->value.as<double>()[0], 1 - 0.05, 1e-8);
  EXPECT_EQ(optimizer.gradient_norm(context_), 0);
}

TEST_F(OptimizerStep, NamesWhatItRemembersAfterTheParameters) {
  config_.optimizer = "muon";
  const Optimizer optimizer(parameters_, reference_backend(), config_);
  std::vector<std::string> names;
  for (const NamedTensor& tensor : optimizer.state()) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"w.m", "b.m", "b.v"}));
}

class LearnerTest : public testing::Test {
 protected:
  // Weights after some steps on the reference backend.
  std::vector<double> weights_after(const RunConfig& config, int64_t steps) {
    const auto model = first_model(config, reference_backend());
    Learner learner(*model, config, data_.train, pool_);
    for (int64_t i = 0; i < steps; ++i) learner.advance();
    std::vector<double> all;
    for (const NamedTensor& tensor : tensors_of(model->parameters()))
      all.insert(all.end(), tensor.values.as<double>(), tensor.values.as<double>() + tensor.values.size());
    return all;
  }
  ThreadPool pool_{1};
  TrainingData data_ = small_data();
};

TEST_F(LearnerTest, AccumulationChangesNothingButRounding) {
  for (const bool carry : {false, true}) {
    RunConfig config = small_run();
    config.train.seq_len = 20;
    if (carry) config.train.loader = "streams";
    config.train.carry_state = carry;
    const std::vector<double> whole = weights_after(config, 3);
    config.train.accumulation = 2;
    const std::vector<double> parts = weights_after(config, 3);
    double worst = 0;
    for (size_t i = 0; i < whole.size(); ++i) worst = std::max(worst, std::abs(whole[i] - parts[i]));
    EXPECT_LT(worst, 1e-9) << "carry " << carry;
  }
}

TEST_F(LearnerTest, CarriedStatesMatter) {
  RunConfig config = small_run();
  config.train.seq_len = 20;
  config.train.loader = "streams";
  const std::vector<double> cold = weights_after(config, 2);
  config.train.carry_state = true;
  EXPECT_NE(weights_after(config, 2), cold);
}

TEST_F(LearnerTest, StopsBeforeWeightsThatAreNotFinite) {
  const RunConfig config = small_run();
  const auto model = first_model(config);
  Learner learner(*model, config, data_.train, pool_);
  learner.advance();
  Tensor& bias = model->parameters().find("layers.0.mixer.level1.0.skip")->value;
  bias.as<float>()[0] = std::numeric_limits<float>::infinity();
  const std::string before = model->parameters().hash();
  const std::string message = error_of([&] { learner.advance(); });
  EXPECT_NE(message.find("diverged at step 2"), std::string::npos) << message;
  EXPECT_EQ(model->parameters().hash(), before);
}

TEST_F(LearnerTest, TheLossFalls) {
  RunConfig config = small_run();
  config.train.steps = 60;
  config.train.lr = 0.01;
  const auto model = first_model(config);
  Learner learner(*model, config, data_.train, pool_);
  const double first = learner.advance().loss;
  double last = 0;
  for (int i = 1; i < 60; ++i) last = learner.advance().loss;
  EXPECT_NEAR(first, std::log(256), 0.3);
  EXPECT_LT(last, 3.2);
}

}  // namespace
}  // namespace harmonic
