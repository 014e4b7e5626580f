// The whole model's gradient against central differences, in double precision.
#include <gtest/gtest.h>

#include <cmath>

#include "small_models.h"

namespace harmonic {
namespace {

class ModelGradient : public testing::TestWithParam<NamedConfig> {};

constexpr int64_t kLength = 41;

// Two texts at different positions, one of them from a state in mid-block; the loss covers the states after
// as well, so that gradients enter from there.
struct Problem {
  explicit Problem(const ModelConfig& config) : model(config, reference_backend(), true), pool(1) {
    initialise_for_test(model, 5);
    tokens = random_text(kLength, config.vocab_size, 1);
    targets = random_text(kLength, config.vocab_size, 2);
    targets[3] = -1;
    const std::vector<int32_t> before = random_text(7, config.vocab_size, 3);
    states = make_state_rows(memory, model.state_layout(), 2);
    State mid(model.state_layout());
    Inference(model, pool).advance(mid, before.data(), 7);
    states.set(1, mid);
    const Random random(9, 9);
    weights = make_state_rows(memory, model.state_layout(), 2);
    uint64_t draw = 0;
    for_each_number([&](const StateField& field, int64_t b, int64_t i) {
      weights.field(field).row<double>(b)[i] = random.uniform(draw++) - 0.5;
    });
  }

  double loss(bool backward) {
    Arena scratch, activations;
    GradientPool gradients;
    Context context{pool, scratch};
    Tape tape(model.backend(), context, activations, backward ? &gradients : nullptr);
    const StateLayout& layout = model.state_layout();
    const StateRows out = make_state_rows(activations, layout, 2);
    d_states = make_state_rows(memory, layout, 2);
    Step step(tape, {offsets, 2}, states, out, weights, d_states);
    const Variable hidden =
        model.forward(step, {tokens.data(), 1, kLength, kLength, DType::i32, Device::cpu});
    const Tensor losses = activations.tensor(1, kLength, DType::f64);
    linear_cross_entropy(tape, hidden, model.head(),
                         {targets.data(), 1, kLength, kLength, DType::i32, Device::cpu}, losses, 0.7);
    double total = 0;
    for (int64_t r = 0; r < kLength; ++r) total += 0.7 * losses.as<double>()[r];
    for_each_number([&](const StateField& field, int64_t b, int64_t i) {
      total += weights.field(field).row<double>(b)[i] * out.field(field).row<double>(b)[i];
    });
    if (backward) tape.backward();
    return total;
  }

  // Calls use(field, b, i) for every number of two states.
  template <typename Use>
  void for_each_number(const Use& use) const {
    for (const StateLayout::Named& named : model.state_layout().fields())
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t i = 0; i < named.field.size; ++i) use(named.field, b, i);
  }

  // d loss / d *number by central differences of fourth order.
  double slope(double* number) {
    const double h = 2e-4, at = *number;
    const auto moved = [&](double by) {
      *number = at + by;
      return loss(false);
    };
    const double result = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h);
    *number = at;
    return result;
  }

  Model model;
  ThreadPool pool;
  Arena memory;
  std::vector<int32_t> tokens, targets;
  StateRows states, d_states;
  StateRows weights;  // of the numbers of the states after, in the loss
  int64_t offsets[3] = {0, 23, kLength};
};

// 1e-9: the loss is about 100 and its rounding, 1e-14, is divided by the step, 2e-4.
void expect_equal(double squared_difference, double squared_size, const std::string& what) {
  EXPECT_LE(std::sqrt(squared_difference), 1e-6 * std::sqrt(squared_size) + 1e-9) << what;
}

TEST_P(ModelGradient, EqualsCentralDifferencesForEveryParameterAndTheState) {
  Problem problem(GetParam().config);
  problem.loss(true);
  const Random random(11, 11);
  uint64_t draw = 0;
  const StateRows d_states = problem.d_states;
  for (size_t i = 0; i < problem.model.parameters().size(); ++i) {
    Parameter& parameter = problem.model.parameters()[i];
    double difference = 0, size = 0;
    for (int sample = 0; sample < 6; ++sample) {
      const auto index =
          static_cast<int64_t>(random.below(draw++, static_cast<uint64_t>(parameter.value.size())));
      const double expected = problem.slope(parameter.value.as<double>() + index);
      const double found = parameter.grad.as<double>()[index];
      difference += (expected - found) * (expected - found);
      size += expected * expected;
    }
    expect_equal(difference, size, parameter.name);
  }
  // Row 0 starts a document: its state is no input. Row 1's numbers are, as far as its position says they are
  // in use.
  for (const StateLayout::Named& named : problem.model.state_layout().fields()) {
    const Tensor numbers = problem.states.field(named.field), gradient = d_states.field(named.field);
    double difference = 0, size = 0;
    // Of a cache, the rows of the first tokens are in use.
    for (int64_t c = 0; c < numbers.cols; c += c < 120 ? 3 : 997) {
      const double expected = problem.slope(numbers.row<double>(1) + c);
      difference += std::pow(expected - gradient.row<double>(1)[c], 2);
      size += expected * expected;
    }
    expect_equal(difference, size, named.name);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, ModelGradient, testing::ValuesIn(small_configs()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace harmonic
