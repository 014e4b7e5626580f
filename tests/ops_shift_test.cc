#include "harmonic/ops/shift.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

void shift(Trial& trial, const std::vector<int64_t>& lengths, int64_t channels, bool with_states, bool add) {
  const Segments segments = trial.segments(lengths);
  trial(Shift{
      .x = trial.input("x", segments.rows(), channels),
      .segments = segments,
      .state_in = trial.input("state_in", segments.count, channels),
      .y = trial.output("y", segments.rows(), channels),
      .state_out = trial.output("state_out", segments.count, channels),
  });
  trial(ShiftBackward{
      .segments = segments,
      .dy = trial.cotangent("y"),
      .dstate_out = with_states ? trial.cotangent("state_out") : Tensor{},
      .dx = trial.gradient("x", add),
      .dstate_in = with_states ? trial.written_gradient("state_in") : Tensor{},
  });
}

TEST(Shift, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const bool with_states : {true, false})
      for (const bool add : {true, false})
        expect_matches_reference(
            [&](Trial& trial) { shift(trial, sequence_lengths(rows), channels, with_states, add); }, where);
  });
}

TEST(Shift, GradientsEqualCentralDifferences) {
  for (const bool add : {true, false})
    expect_gradients_equal_differences([&](Trial& trial) { shift(trial, {5, 0, 1, 9}, 3, true, add); });
}

TEST(Shift, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  expect_same_bits_on_every_machine([](Trial& trial) { shift(trial, {130, 0, 1, 69}, 37, true, true); }, "");
}

TEST(Shift, AnySplitOfTheRowsGivesTheSameBits) {
  constexpr int64_t kChannels = 33;
  expect_any_split_gives_the_same_bits(
      kChannels, [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
        trial(Shift{
            .x = piece.of(trial.input("x", split_rows(), kChannels)),
            .segments = trial.segments(piece.lengths),
            .state_in = state_in,
            .y = piece.of(trial.output("y", split_rows(), kChannels)),
            .state_out = state_out,
        });
      });
}

TEST(Shift, TheFirstRowComesFromTheStateAndTheLastBecomesIt) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    shift(trial, {3, 0}, 1, true, false);
    const std::vector<double> x = trial.values("x"), state = trial.values("state_in");
    EXPECT_EQ(trial.values("y"), (std::vector<double>{state[0], x[0], x[1]}));
    EXPECT_EQ(trial.values("state_out"), (std::vector<double>{x[2], state[1]}));
  }
}

}  // namespace
}  // namespace harmonic
