#include "harmonic/ops/selective_scan.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

void selective_scan(Trial& trial, const std::vector<int64_t>& lengths, int64_t channels, bool with_states,
                    bool with_rates) {
  const Segments segments = trial.segments(lengths);
  const int64_t rows = segments.rows(), state_columns = kSelectiveState * channels;
  const SelectiveScan forward = {
      .u = trial.input("u", rows, channels),
      .z = trial.input("z", rows, channels, -4, 4),
      .dt = trial.input("dt", rows, channels, -6, 3),
      .key = trial.input("key", rows, kSelectiveState),
      .query = trial.input("query", rows, kSelectiveState),
      .skip = trial.input("skip", 1, channels),
      .a_log = with_rates ? trial.input("a_log", channels, kSelectiveState, -1, 2.8) : Tensor{},
      .segments = segments,
      .state_in = trial.input("state_in", segments.count, state_columns),
      .y = trial.output("y", rows, channels),
      .state_out = trial.output("state_out", segments.count, state_columns),
      .borders = trial.output("borders", scan_tiles(segments), state_columns),
  };
  trial(forward);
  trial(SelectiveScanBackward{
      .u = forward.u,
      .z = forward.z,
      .dt = forward.dt,
      .key = forward.key,
      .query = forward.query,
      .skip = forward.skip,
      .a_log = forward.a_log,
      .segments = segments,
      .borders = forward.borders,
      .dy = trial.cotangent("y"),
      .dstate_out = with_states ? trial.cotangent("state_out") : Tensor{},
      .du = trial.written_gradient("u"),
      .dz = trial.written_gradient("z"),
      .ddt = trial.written_gradient("dt"),
      .dkey = trial.written_gradient("key"),
      .dquery = trial.written_gradient("query"),
      .dstate_in = with_states ? trial.written_gradient("state_in") : Tensor{},
      .dskip = trial.summed_gradient("skip"),
      .da_log = with_rates ? trial.summed_gradient("a_log") : Tensor{},
  });
}

TEST(SelectiveScan, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const bool with : {true, false})
      for (const bool with_rates : {true, false})
        expect_matches_reference(
            [&](Trial& trial) { selective_scan(trial, sequence_lengths(rows), channels, with, with_rates); },
            where);
  });
}

TEST(SelectiveScan, GradientsEqualCentralDifferences) {
  for (const bool with_rates : {false, true})
    expect_gradients_equal_differences([&](Trial& trial) {
      selective_scan(trial, {5, 0, 1, 66}, 2, true, with_rates);
    });
}

TEST(SelectiveScan, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t channels : {7, 130})
    for (const bool with_rates : {false, true})
      expect_same_bits_on_every_machine(
          [&](Trial& trial) {
            selective_scan(trial, {130, 0, 1, 69}, channels, true, with_rates);
          },
          fmt::format("{} channels", channels));
}

TEST(SelectiveScan, AnySplitOfTheRowsGivesTheSameBits) {
  for (const int64_t channels : {7, 33, 34}) {
    expect_any_split_gives_the_same_bits(
        kSelectiveState * channels,
        [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
          trial(SelectiveScan{
              .u = piece.of(trial.input("u", split_rows(), channels)),
              .z = piece.of(trial.input("z", split_rows(), channels, -4, 4)),
              .dt = piece.of(trial.input("dt", split_rows(), channels, -6, 3)),
              .key = piece.of(trial.input("key", split_rows(), kSelectiveState)),
              .query = piece.of(trial.input("query", split_rows(), kSelectiveState)),
              .skip = trial.input("skip", 1, channels),
              .a_log = channels == 34 ? trial.input("a_log", channels, kSelectiveState, -1, 2.8) : Tensor{},
              .segments = trial.segments(piece.lengths),
              .state_in = state_in,
              .y = piece.of(trial.output("y", split_rows(), channels)),
              .state_out = state_out,
              .borders = {},
          });
        });
  }
}

// Steps far outside the usual range: softplus and exp must not overflow into NaN on the way.
TEST(SelectiveScan, ExtremeStepsKeepAllOrReplaceAll) {
  for (const TestedBackend& tested : tested_backends()) {
    for (const double dt : {-200.0, 200.0}) {
      Trial trial(tested.backend, 1);
      trial(SelectiveScan{
          .u = trial.input("u", 1, 5, 0.5, 0.5),
          .z = trial.input("z", 1, 5),
          .dt = trial.input("dt", 1, 5, dt, dt),
          .key = trial.input("key", 1, kSelectiveState, 1, 1),
          .query = trial.input("query", 1, kSelectiveState),
          .skip = trial.input("skip", 1, 5),
          .a_log = {},
          .segments = trial.segments({1}),
          .state_in = trial.input("state_in", 1, kSelectiveState * 5, 0.25, 0.25),
          .y = trial.output("y", 1, 5),
          .state_out = trial.output("state_out", 1, kSelectiveState * 5),
          .borders = {},
      });
      for (const double state : trial.values("state_out"))
        EXPECT_NEAR(state, dt < 0 ? 0.25 : 200 * 0.5, 1e-4) << tested.backend.name;
      for (const double y : trial.values("y")) EXPECT_TRUE(std::isfinite(y)) << tested.backend.name;
    }
  }
}

}  // namespace
}  // namespace harmonic
