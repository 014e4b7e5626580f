#include "harmonic/ops/attention.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "harmonic/ops/rotary.h"
#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

struct Case {
  std::vector<int64_t> lengths, positions;
  int64_t D;
  AttentionShape shape;
  int64_t cache = 0;  // rows a segment; 0 is none
};

void attention(Trial& trial, const Case& c) {
  const Segments segments = trial.segments(c.lengths);
  const int64_t rows = segments.rows(), width = c.shape.kv_heads * c.D, query_width = c.shape.heads * c.D;
  const int64_t* positions = trial.numbers(c.positions);
  const Attention forward = {
      .q = trial.input("q", rows, query_width, -2, 2),
      .k = trial.input("k", rows, width, -2, 2),
      .v = trial.input("v", rows, width),
      .past = c.cache ? trial.input("past", segments.count * c.cache, 2 * width) : Tensor{},
      .segments = segments,
      .positions = positions,
      .shape = c.shape,
      .y = trial.output("y", rows, query_width),
      .lse = trial.output("lse", rows, c.shape.heads),
  };
  trial(forward);
  trial(AttentionBackward{
      .q = forward.q,
      .k = forward.k,
      .v = forward.v,
      .past = forward.past,
      .segments = segments,
      .positions = positions,
      .shape = c.shape,
      .y = forward.y,
      .lse = forward.lse,
      .dy = trial.cotangent("y"),
      .dq = trial.written_gradient("q"),
      .dk = trial.written_gradient("k"),
      .dv = trial.written_gradient("v"),
      .dpast = c.cache ? trial.summed_gradient("past") : Tensor{},
  });
}

const Case kCases[] = {
    {{5}, {0}, 4, {1, 1}},
    {{1, 0, 3}, {0, 0, 0}, 6, {2, 1}},
    {{200, 70}, {0, 0}, 16, {4, 2}},
    {{150, 65}, {0, 0}, 8, {2, 2, 33}},
    {{3, 0, 70, 1}, {5, 2, 100, 63}, 8, {4, 2}, 200},
    {{3, 90, 1}, {0, 61, 64}, 8, {2, 1, 20}, 192},
    {{130, 1, 40}, {300, 77, 5}, 4, {2, 2, 64}, 64},
};

std::string name_of(const Case& c) {
  return fmt::format("lengths {} heads {}/{} D {} window {} cache {}", fmt::join(c.lengths, ","),
                     c.shape.heads, c.shape.kv_heads, c.D, c.shape.window, c.cache);
}

TEST(Attention, MatchesTheReferenceInEveryOutputAndGradient) {
  for (const Case& c : kCases)
    expect_matches_reference([&](Trial& trial) { attention(trial, c); }, name_of(c));
}

TEST(Attention, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { attention(trial, {{5, 2}, {0, 0}, 4, {2, 1}}); });
  expect_gradients_equal_differences([](Trial& trial) {
    attention(trial, {{4, 2}, {3, 1}, 4, {2, 1, 3}, 8});
  });
}

TEST(Attention, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const Case& c : kCases)
    expect_same_bits_on_every_machine([&](Trial& trial) { attention(trial, c); }, name_of(c));
}

// Texts in one call against the same in pieces, the keys kept between them.
TEST(Attention, AnySplitOfTheRowsGivesTheSameBits) {
  for (const AttentionShape shape : {AttentionShape{4, 2, 0}, AttentionShape{2, 2, 50}}) {
    constexpr int64_t D = 8;
    const int64_t width = shape.kv_heads * D, cache = shape.window ? 64 : 320;
    expect_any_split_gives_the_same_bits(
        cache * 2 * width,
        [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
          for (int64_t b = 0; b < state_in.rows; ++b) copy_row(state_in, b, state_out, b);
          // The states' rows are not adjacent, as a batch's caches are: one call for each sequence.
          for (size_t b = 0; b < piece.lengths.size(); ++b) {
            const auto index = static_cast<int64_t>(b);
            Piece one = piece;
            for (size_t i = 0; i < b; ++i) one.first_row += piece.lengths[i];
            one.lengths = {piece.lengths[b]};
            const Tensor state = state_out.rows_of(index, 1);
            const Tensor past = {state.data, cache, 2 * width, 2 * width, state.dtype, state.device};
            const Tensor k = one.of(trial.input("k", split_rows(), width, -2, 2));
            const Tensor v = one.of(trial.input("v", split_rows(), width));
            const Segments segments = trial.segments(one.lengths);
            const int64_t* positions = trial.numbers({piece.positions[b]});
            trial(Attention{.q = one.of(trial.input("q", split_rows(), shape.heads * D, -2, 2)),
                            .k = k,
                            .v = v,
                            .past = past,
                            .segments = segments,
                            .positions = positions,
                            .shape = shape,
                            .y = one.of(trial.output("y", split_rows(), shape.heads * D)),
                            .lse = {}});
            trial(KeepKeys{k, v, segments, positions, past});
          }
        });
  }
}

TEST(KeepKeys, PutsTheRowsWhereTheirPositionsSayAndTakesTheirGradients) {
  const std::vector<int64_t> lengths = {3, 0, 50}, positions = {39, 4, 20};
  const auto keep = [&](Trial& trial) {
    const Segments segments = trial.segments(lengths);
    trial(KeepKeys{trial.input("k", 53, 6), trial.input("v", 53, 6), segments, trial.numbers(positions),
                   trial.changed("past", 3 * 40, 12)});
  };
  const auto take = [&](Trial& trial) {
    const Segments segments = trial.segments(lengths);
    trial(KeepKeysBackward{segments, trial.numbers(positions), trial.input("dpast", 3 * 80, 12),
                           trial.changed("dk", 53, 6), trial.changed("dv", 53, 6)});
  };
  expect_matches_reference(keep, "keep");
  expect_matches_reference(take, "take");
  expect_same_bits_on_every_machine(keep, "keep");
  expect_same_bits_on_every_machine(take, "take");
}

TEST(Rotate, TurnsPairsByTheirAnglesAndBackAgain) {
  static const double frequencies[] = {1.0, 0.31, 0.07};
  const auto body = [](Trial& trial) {
    const Segments segments = trial.segments({40, 0, 3});
    const Tensor table = trial.output("table", 43, 6);
    trial(RotaryTable{segments, trial.numbers({0, 7, 100'000}), frequencies, table});
    const Tensor x = trial.input("x", 43, 18), y = trial.output("y", 43, 18);
    trial(Rotate{x, table, false, y});
    trial(Rotate{y, table, true, trial.output("back", 43, 18)});
  };
  expect_matches_reference(body, "rotate");
  expect_same_bits_on_every_machine(body, "rotate");
  Trial trial(reference_backend(), 1);
  body(trial);
  EXPECT_LE(relative_error(trial.values("back"), trial.values("x")), 1e-14);
}

}  // namespace
}  // namespace harmonic
