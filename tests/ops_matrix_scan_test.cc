#include "harmonic/ops/matrix_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "harmonic/ops/weighted_mean.h"
#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

// Segments begin at different places in their open blocks.
MatrixScan forward_of(Trial& trial, const std::vector<int64_t>& lengths, const MatrixShape& shape) {
  const Segments segments = trial.segments(lengths);
  std::vector<int64_t> phases, closed;
  for (int64_t b = 0; b < segments.count; ++b) {
    phases.push_back((shape.stride - 1 + 2 * b) % shape.stride);
    closed.push_back((phases.back() + segments.length(b)) / shape.stride);
  }
  const Segments blocks = trial.segments(closed);
  const int64_t rows = segments.rows(), block_rows = blocks.rows();
  return {
      .q = trial.input("q", rows, shape.heads * shape.features),
      .k = trial.input("k", block_rows, shape.kv_heads * shape.features),
      .v = trial.input("v", block_rows, shape.kv_heads * shape.values),
      .g = trial.input("g", block_rows, shape.kv_heads, -5, 2),
      .log_gain = trial.input("log_gain", 1, shape.heads, -2, 1),
      .segments = segments,
      .blocks = blocks,
      .phases = trial.numbers(phases),
      .shape = shape,
      .state_in = trial.input("state_in", segments.count, shape.state()),
      .y = trial.output("y", rows, shape.heads * (shape.values + 1)),
      .state_out = trial.output("state_out", segments.count, shape.state()),
      .borders = trial.output("borders", matrix_tiles(blocks), shape.state()),
  };
}

void matrix_scan(Trial& trial, const std::vector<int64_t>& lengths, const MatrixShape& shape,
                 bool with_states) {
  const MatrixScan forward = forward_of(trial, lengths, shape);
  trial(forward);
  trial(MatrixScanBackward{
      .q = forward.q,
      .k = forward.k,
      .v = forward.v,
      .g = forward.g,
      .log_gain = forward.log_gain,
      .segments = forward.segments,
      .blocks = forward.blocks,
      .phases = forward.phases,
      .shape = shape,
      .borders = forward.borders,
      .y = forward.y,
      .dy = trial.cotangent("y"),
      .dstate_out = with_states ? trial.cotangent("state_out") : Tensor{},
      .dq = trial.written_gradient("q"),
      .dk = trial.written_gradient("k"),
      .dv = trial.written_gradient("v"),
      .dg = trial.written_gradient("g"),
      .dstate_in = with_states ? trial.written_gradient("state_in") : Tensor{},
      .dlog_gain = trial.summed_gradient("log_gain"),
  });
}

const std::vector<MatrixShape>& shapes() {
  static const std::vector<MatrixShape> all = {
      {.heads = 1, .kv_heads = 1, .features = 1, .values = 1, .stride = 1},
      {.heads = 4, .kv_heads = 2, .features = 16, .values = 8, .stride = 1},
      {.heads = 3, .kv_heads = 1, .features = 7, .values = 33, .stride = 4},
      {.heads = 2, .kv_heads = 2, .features = 64, .values = 16, .stride = 3},
      {.heads = 2, .kv_heads = 1, .features = 5, .values = 15, .stride = 100},
      {.heads = 5, .kv_heads = 1, .features = 40, .values = 64, .stride = 1},
      {.heads = 2, .kv_heads = 2, .features = 33, .values = 90, .stride = 2},
  };
  return all;
}

std::string named(const MatrixShape& s) {
  return fmt::format("{} heads on {}, {} features, {} values, stride {}", s.heads, s.kv_heads, s.features,
                     s.values, s.stride);
}

TEST(MatrixScan, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for (const MatrixShape& shape : shapes())
    for (const int64_t rows : kRowCounts)
      for (const bool with_states : {true, false})
        // A gate's gradient is a sum over all that passes it, of both signs.
        expect_matches_reference(
            [&](Trial& trial) { matrix_scan(trial, sequence_lengths(rows), shape, with_states); },
            fmt::format("{} rows, {}", rows, named(shape)), {{"gradient of g", 5}});
}

// Of more features and values than are taken together on a card, and more blocks than a tile has.
TEST(MatrixScan, OfWideHeadsMatchesTheReferenceOverSeveralTiles) {
  for (const auto& [shape, rows] : std::vector<std::pair<MatrixShape, int64_t>>{
           {{.heads = 2, .kv_heads = 1, .features = 130, .values = 90, .stride = 1}, 70},
           {{.heads = 3, .kv_heads = 1, .features = 70, .values = 16, .stride = 20}, 700}})
    expect_matches_reference(
        [&](Trial& trial) {
          matrix_scan(trial, {rows, 3}, shape, true);
        },
        named(shape), {{"gradient of g", 5}});
}

TEST(MatrixScan, NoTokenSeesWhatIsNotANumberInALaterBlock) {
  constexpr int64_t kRows = 20;
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    const MatrixScan op =
        forward_of(trial, {kRows}, {.heads = 2, .kv_heads = 1, .features = 6, .values = 5, .stride = 1});
    trial.poison_row("v", kRows - 1);
    trial(op);
    const std::vector<double> y = trial.values("y");
    const auto before = y.end() - op.y.cols;
    EXPECT_TRUE(std::all_of(y.begin(), before, [](double number) { return std::isfinite(number); }))
        << tested.backend.name;
    EXPECT_TRUE(std::isnan(*before)) << tested.backend.name;
  }
}

TEST(MatrixScan, GradientsEqualCentralDifferences) {
  for (const int64_t stride : {1, 3})
    expect_gradients_equal_differences([&](Trial& trial) {
      matrix_scan(trial, {5, 0, 1, 40},
                  {.heads = 2, .kv_heads = 1, .features = 3, .values = 2, .stride = stride}, true);
    });
}

TEST(MatrixScan, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const MatrixShape& shape : shapes())
    expect_same_bits_on_every_machine(
        [&](Trial& trial) {
          matrix_scan(trial, {130, 0, 1, 69}, shape, true);
        },
        named(shape));
}

TEST(MatrixScan, AnySplitOfTheRowsGivesTheSameBits) {
  for (const MatrixShape& shape : shapes()) {
    const int64_t stride = shape.stride, sequences = static_cast<int64_t>(split_lengths().size());
    const int64_t all_blocks = first_block(sequences, stride);
    expect_any_split_gives_the_same_bits(shape.state(), [&](Trial& trial, const Piece& piece,
                                                            const Tensor& state_in, const Tensor& state_out) {
      const std::vector<int64_t> closed = piece.blocks_closed(stride);
      const int64_t before = first_block(piece.first_sequence, stride) + piece.positions[0] / stride;
      const auto blocks_of = [&](const char* name, int64_t cols, double low, double high) {
        return trial.input(name, all_blocks, cols, low, high).rows_of(before, total(closed));
      };
      trial(MatrixScan{
          .q = piece.of(trial.input("q", split_rows(), shape.heads * shape.features)),
          .k = blocks_of("k", shape.kv_heads * shape.features, -1, 1),
          .v = blocks_of("v", shape.kv_heads * shape.values, -1, 1),
          .g = blocks_of("g", shape.kv_heads, -5, 2),
          .log_gain = trial.input("log_gain", 1, shape.heads),
          .segments = trial.segments(piece.lengths),
          .blocks = trial.segments(closed),
          .phases = trial.numbers(piece.phases(stride)),
          .shape = shape,
          .state_in = state_in,
          .y = piece.of(trial.output("y", split_rows(), shape.heads * (shape.values + 1))),
          .state_out = state_out,
          .borders = {},
      });
    });
  }
}

TEST(MatrixScan, KeepingBordersChangesNoBit) {
  for (const TestedBackend& tested : tested_backends())
    for (const MatrixShape& shape : shapes()) {
      std::vector<double> results[2];
      for (const bool with_borders : {true, false}) {
        Trial trial(tested.backend, 1);
        MatrixScan op = forward_of(trial, {70, 5}, shape);
        if (!with_borders) op.borders = {};
        trial(op);
        std::vector<double>& result = results[with_borders];
        result = trial.values("y");
        const std::vector<double> state = trial.values("state_out");
        result.insert(result.end(), state.begin(), state.end());
      }
      EXPECT_EQ(results[0], results[1]) << tested.backend.name << ", " << named(shape);
    }
}

// exp(log_gain) and the gates must not overflow into NaN; a closed gate forgets all, an open one nothing.
TEST(MatrixScan, ExtremeGatesKeepAllOrNothing) {
  for (const TestedBackend& tested : tested_backends())
    for (const double g : {-200.0, 200.0}) {
      Trial trial(tested.backend, 1);
      trial(MatrixScan{
          .q = trial.input("q", 1, 2, 1, 1),
          .k = trial.input("k", 1, 2, 0.5, 0.5),
          .v = trial.input("v", 1, 3, 2, 2),
          .g = trial.input("g", 1, 1, g, g),
          .log_gain = trial.input("log_gain", 1, 1, 0, 0),
          .segments = trial.segments({1}),
          .blocks = trial.segments({1}),
          .phases = trial.numbers({0}),
          .shape = {.heads = 1, .kv_heads = 1, .features = 2, .values = 3, .stride = 1},
          .state_in = trial.input("state_in", 1, 8, 0.25, 0.25),
          .y = trial.output("y", 1, 4),
          .state_out = trial.output("state_out", 1, 8),
          .borders = {},
      });
      const double kept = g < 0 ? 0.25 : 0;
      const std::vector<double> y = trial.values("y");
      for (size_t e = 0; e < 4; ++e)
        EXPECT_NEAR(y[e], 2 * (kept + 0.5 * (e == 3 ? 1 : 2)), 1e-5) << tested.backend.name;
    }
}

void weighted_mean(Trial& trial, int64_t rows, int64_t heads, int64_t values) {
  const Tensor x = trial.input("x", rows, heads * (values + 1), 0.2, 2);
  const Tensor y = trial.output("y", rows, heads * values);
  trial(WeightedMean{x, heads, y});
  trial(WeightedMeanBackward{
      .x = x, .y = y, .heads = heads, .dy = trial.cotangent("y"), .dx = trial.written_gradient("x")});
}

TEST(WeightedMean, MatchesTheReferenceInOutputAndGradient) {
  for_all_sizes([](int64_t rows, int64_t values, const std::string& where) {
    expect_matches_reference([&](Trial& trial) { weighted_mean(trial, rows, 3, values); }, where);
  });
}

TEST(WeightedMean, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { weighted_mean(trial, 5, 2, 3); });
}

TEST(WeightedMean, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  expect_same_bits_on_every_machine([](Trial& trial) { weighted_mean(trial, 300, 3, 33); }, "300 rows");
}

TEST(WeightedMean, NothingReadIsZero) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    trial(WeightedMean{trial.input("x", 1, 4, 0, 0), 1, trial.output("y", 1, 3)});
    for (const double y : trial.values("y")) EXPECT_EQ(y, 0) << tested.backend.name;
  }
}

}  // namespace
}  // namespace harmonic
