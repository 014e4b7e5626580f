#include "harmonic/ops/causal_conv.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

constexpr Activation kActivations[] = {Activation::none, Activation::silu};

struct Shape {
  std::vector<int64_t> lengths;
  int64_t channels, taps;
  Activation activation;
  bool with_states = true, add = false;
};

void causal_conv(Trial& trial, const Shape& shape) {
  const Segments segments = trial.segments(shape.lengths);
  const int64_t rows = segments.rows(), state_columns = (shape.taps - 1) * shape.channels;
  const CausalConv forward = {
      .x = trial.input("x", rows, shape.channels),
      .weight = trial.input("weight", shape.channels, shape.taps),
      .bias = trial.input("bias", 1, shape.channels),
      .segments = segments,
      .state_in = trial.input("state_in", segments.count, state_columns),
      .y = trial.output("y", rows, shape.channels),
      .state_out = trial.output("state_out", segments.count, state_columns),
      .activation = shape.activation,
  };
  trial(forward);
  trial(CausalConvBackward{
      .x = forward.x,
      .weight = forward.weight,
      .bias = forward.bias,
      .segments = segments,
      .state_in = forward.state_in,
      .activation = shape.activation,
      .dy = trial.cotangent("y"),
      .dstate_out = shape.with_states ? trial.cotangent("state_out") : Tensor{},
      .dx = trial.gradient("x", shape.add),
      .dstate_in = shape.with_states ? trial.written_gradient("state_in") : Tensor{},
      .dweight = trial.summed_gradient("weight"),
      .dbias = trial.summed_gradient("bias"),
  });
}

TEST(CausalConv, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const int64_t taps : {1, 2, 4, 16}) {
      for (const Activation activation : kActivations) {
        const bool with_states = (rows + channels + taps) % 2 == 0;
        expect_matches_reference(
            [&](Trial& trial) {
              causal_conv(trial,
                          {sequence_lengths(rows), channels, taps, activation, with_states, !with_states});
            },
            fmt::format("{}, {} taps", where, taps));
      }
    }
  });
}

TEST(CausalConv, GradientsEqualCentralDifferences) {
  for (const int64_t taps : {2, 4})
    for (const Activation activation : kActivations)
      for (const bool add : {false, true})
        expect_gradients_equal_differences([&](Trial& trial) {
          causal_conv(trial, {{5, 0, 1, 9, 2}, 3, taps, activation, true, add});
        });
}

TEST(CausalConv, WithoutDxLeavesTheOtherGradientsAsTheyAre) {
  const auto gradients = [](bool with_dx, const Backend& backend) {
    Trial trial(backend, 1);
    const Segments segments = trial.segments({5, 2});
    trial.output("y", 7, 19);
    trial(CausalConvBackward{
        .x = trial.input("x", 7, 19),
        .weight = trial.input("weight", 19, 4),
        .bias = trial.input("bias", 1, 19),
        .segments = segments,
        .state_in = trial.input("state_in", 2, 3 * 19),
        .activation = Activation::silu,
        .dy = trial.cotangent("y"),
        .dstate_out = {},
        .dx = with_dx ? trial.gradient("x") : Gradient{},
        .dstate_in = trial.written_gradient("state_in"),
        .dweight = trial.summed_gradient("weight"),
        .dbias = trial.summed_gradient("bias"),
    });
    return trial.bits("gradient of weight") + trial.bits("gradient of bias") +
           trial.bits("gradient of state_in");
  };
  for (const TestedBackend& tested : tested_backends())
    EXPECT_TRUE(gradients(true, tested.backend) == gradients(false, tested.backend)) << tested.backend.name;
}

TEST(CausalConv, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const Activation activation : kActivations)
    for (const int64_t channels : {7, 130})
      expect_same_bits_on_every_machine(
          [&](Trial& trial) {
            causal_conv(trial, {{130, 0, 1, 69}, channels, 4, activation});
          },
          fmt::format("{} channels", channels));
}

TEST(CausalConv, AnySplitOfTheRowsGivesTheSameBits) {
  for (const int64_t taps : {1, 2, 4, 16}) {
    for (const Activation activation : kActivations) {
      constexpr int64_t kChannels = 33;
      expect_any_split_gives_the_same_bits(
          (taps - 1) * kChannels,
          [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
            trial(CausalConv{
                .x = piece.of(trial.input("x", split_rows(), kChannels)),
                .weight = trial.input("weight", kChannels, taps),
                .bias = trial.input("bias", 1, kChannels),
                .segments = trial.segments(piece.lengths),
                .state_in = state_in,
                .y = piece.of(trial.output("y", split_rows(), kChannels)),
                .state_out = state_out,
                .activation = activation,
            });
          });
    }
  }
}

}  // namespace
}  // namespace harmonic
