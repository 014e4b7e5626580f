#include "harmonic/ops/decay_scan.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

// Gates from "keep all" to "keep nothing".
constexpr double kGate = 8;

void decay_scan(Trial& trial, const std::vector<int64_t>& lengths, int64_t channels, bool with_states) {
  const Segments segments = trial.segments(lengths);
  const int64_t rows = segments.rows();
  const DecayScan forward = {
      .u = trial.input("u", rows, channels),
      .z = trial.input("z", rows, channels, -4, 4),
      .g = trial.input("g", rows, channels, -kGate, kGate),
      .skip = trial.input("skip", 1, channels),
      .segments = segments,
      .state_in = trial.input("state_in", segments.count, channels),
      .y = trial.output("y", rows, channels),
      .state_out = trial.output("state_out", segments.count, channels),
      .borders = trial.output("borders", scan_tiles(segments), channels),
  };
  trial(forward);
  trial(DecayScanBackward{
      .u = forward.u,
      .z = forward.z,
      .g = forward.g,
      .skip = forward.skip,
      .segments = segments,
      .borders = forward.borders,
      .dy = trial.cotangent("y"),
      .dstate_out = with_states ? trial.cotangent("state_out") : Tensor{},
      .du = trial.written_gradient("u"),
      .dz = trial.written_gradient("z"),
      .dg = trial.written_gradient("g"),
      .dstate_in = with_states ? trial.written_gradient("state_in") : Tensor{},
      .dskip = trial.summed_gradient("skip"),
  });
}

TEST(DecayScan, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const bool with_states : {true, false})
      expect_matches_reference(
          [&](Trial& trial) { decay_scan(trial, sequence_lengths(rows), channels, with_states); }, where);
  });
}

// As in a step of decoding.
TEST(DecayScan, MatchesTheReferenceWhereNoTextHasMoreThanARow) {
  for (const int64_t channels : {1, 33, 64})
    expect_matches_reference(
        [&](Trial& trial) {
          decay_scan(trial, {1, 0, 1, 1, 0, 0, 1}, channels, true);
        },
        fmt::format("{} channels", channels));
}

TEST(DecayScan, RoundsOnACardWhatIsForProductsAlone) {
  for (const int64_t length : {1, 70})
    expect_rounded_for_products(2 * length, 33, [&](Trial& trial, const Tensor& y) {
      const auto input = [&](const char* name) { return trial.input(name, 2 * length, 33, -4, 4); };
      trial(DecayScan{input("u"), input("z"), input("g"), trial.input("skip", 1, 33),
                      trial.segments({length, length}), trial.input("state_in", 2, 33), y,
                      trial.output("state_out", 2, 33), Tensor{}});
    });
}

TEST(DecayScan, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { decay_scan(trial, {5, 0, 1, 67}, 3, true); });
}

TEST(DecayScan, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t channels : {7, 130})
    expect_same_bits_on_every_machine(
        [&](Trial& trial) {
          decay_scan(trial, {130, 0, 1, 69}, channels, true);
        },
        fmt::format("{} channels", channels));
}

TEST(DecayScan, AnySplitOfTheRowsGivesTheSameBits) {
  for (const int64_t channels : {7, 33}) {
    expect_any_split_gives_the_same_bits(
        channels, [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
          trial(DecayScan{
              .u = piece.of(trial.input("u", split_rows(), channels)),
              .z = piece.of(trial.input("z", split_rows(), channels, -4, 4)),
              .g = piece.of(trial.input("g", split_rows(), channels, -kGate, kGate)),
              .skip = trial.input("skip", 1, channels),
              .segments = trial.segments(piece.lengths),
              .state_in = state_in,
              .y = piece.of(trial.output("y", split_rows(), channels)),
              .state_out = state_out,
              .borders = {},
          });
        });
  }
}

// Gates far outside the usual range: exp must not overflow into NaN on the way.
TEST(DecayScan, ExtremeGatesKeepAllOrNothing) {
  for (const TestedBackend& tested : tested_backends()) {
    for (const double gate : {-200.0, 200.0}) {
      Trial trial(tested.backend, 1);
      const Segments segments = trial.segments({2});
      trial(DecayScan{
          .u = trial.input("u", 2, 5, 0.5, 0.5),
          .z = trial.input("z", 2, 5),
          .g = trial.input("g", 2, 5, gate, gate),
          .skip = trial.input("skip", 1, 5),
          .segments = segments,
          .state_in = trial.input("state_in", 1, 5, 0.25, 0.25),
          .y = trial.output("y", 2, 5),
          .state_out = trial.output("state_out", 1, 5),
          .borders = {},
      });
      for (const double state : trial.values("state_out"))
        EXPECT_NEAR(state, gate < 0 ? 0.25 : 0.5, 1e-6) << tested.backend.name;
      for (const double y : trial.values("y")) EXPECT_TRUE(std::isfinite(y)) << tested.backend.name;
    }
  }
}

// A state of a constant input under a constant gate, by the closed form of the geometric series.
TEST(DecayScan, ConvergesToTheSumOfAGeometricSeries) {
  const double a = std::exp(-1.0 / 32), gate = -std::log(a / (1 - a));
  const int64_t steps = 40;
  Trial trial(reference_backend(), 1);
  const Segments segments = trial.segments({steps});
  const double g = static_cast<double>(static_cast<float>(gate)), keep = 1 / (1 + std::exp(g));
  trial(DecayScan{
      .u = trial.input("u", steps, 1, 1, 1),
      .z = trial.input("z", steps, 1),
      .g = trial.input("g", steps, 1, gate, gate),
      .skip = trial.input("skip", 1, 1),
      .segments = segments,
      .state_in = trial.input("state_in", 1, 1, 2, 2),
      .y = trial.output("y", steps, 1),
      .state_out = trial.output("state_out", 1, 1),
      .borders = {},
  });
  const double kept = std::pow(keep, steps);
  const double expected = 2 * kept + std::sqrt(1 - keep * keep) * (1 - kept) / (1 - keep);
  EXPECT_NEAR(trial.values("state_out")[0], expected, 1e-12);
}

}  // namespace
}  // namespace harmonic
