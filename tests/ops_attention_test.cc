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
  bool cache_has_gradient = true;
  bool dense = false;  // rows lie one after the other, each head at a multiple of 16 bytes
};

void attention(Trial& trial, const Case& c) {
  const Segments segments = trial.segments(c.lengths);
  const int64_t rows = segments.rows(), width = c.shape.kv_heads * c.D, query_width = c.shape.heads * c.D;
  const int64_t* positions = trial.numbers(c.positions);
  const auto laid_out = [&](const Tensor& tensor) {
    if (!c.dense) return tensor;
    const Tensor copy = trial.temporary(tensor.rows, tensor.cols);
    for (int64_t r = 0; r < tensor.rows; ++r) copy_row(tensor, r, copy, r);
    return copy;
  };
  const Attention forward = {
      .q = laid_out(trial.input("q", rows, query_width, -2, 2)),
      .k = laid_out(trial.input("k", rows, width, -2, 2)),
      .v = laid_out(trial.input("v", rows, width)),
      .past = c.cache ? laid_out(trial.input("past", segments.count, c.cache * 2 * width)) : Tensor{},
      .segments = segments,
      .positions = positions,
      .shape = c.shape,
      .y = trial.output("y", rows, query_width),
      .lse = trial.output("lse", rows, c.shape.heads),
  };
  trial(forward);
  const KeepKeys keep = {forward.k,    forward.v,
                         segments,     positions,
                         forward.past, trial.output("after", forward.past.rows, forward.past.cols)};
  if (c.cache) trial(keep);
  const AttentionBackward backward = {
      .q = forward.q,
      .k = forward.k,
      .v = forward.v,
      .past = forward.past,
      .segments = segments,
      .positions = positions,
      .shape = c.shape,
      .y = forward.y,
      .lse = forward.lse,
      .dy = laid_out(trial.cotangent("y")),
      .dq = trial.written_gradient("q"),
      .dk = trial.written_gradient("k"),
      .dv = trial.written_gradient("v"),
      .dpast = c.cache && c.cache_has_gradient ? trial.written_gradient("past") : Tensor{},
  };
  trial(backward);
  if (backward.dpast)
    trial(KeepKeysBackward{segments, positions, trial.cotangent("after"), backward.dk, backward.dv,
                           backward.dpast});
}

const Case kCases[] = {
    {{5}, {0}, 4, {1, 1}},
    {{1, 0, 3}, {0, 0, 0}, 6, {2, 1}},
    {{200, 70}, {0, 0}, 16, {4, 2}},
    {{150, 65}, {0, 0}, 8, {2, 2, 33}},
    {{3, 0, 70, 1}, {5, 2, 100, 63}, 8, {4, 2}, 200},
    {{3, 90, 1}, {0, 61, 64}, 8, {2, 1, 20}, 192},
    {{130, 1, 40}, {300, 77, 5}, 4, {2, 2, 64}, 64},
    {{9, 0, 2}, {7, 3, 1}, 4, {2, 1, 3}, 5},
    {{131, 40}, {0, 0}, 23, {2, 1}},
    {{70, 3}, {30, 600}, 64, {3, 1}, 700},
    {{1, 8, 2}, {300, 10, 0}, 20, {8, 2}, 301},
    {{200, 9}, {50, 100}, 32, {4, 1, 90}, 160},
    {{20, 140}, {70, 9}, 100, {2, 2, 31}, 50, false},
    {{70}, {0}, 150, {1, 1}},
    {{129, 1, 40}, {2, 300, 0}, 12, {4, 1}, 301, true, true},
    {{3, 65}, {70, 9}, 64, {2, 1, 31}, 40, true, true},
};

// At most a query each. Not for products in bf16: gradients of scores all but cancel over so few.
const Case kOneQueryEach[] = {
    {{1, 0, 1}, {130, 3, 0}, 16, {3, 1}, 140}, {{0, 1, 1, 0}, {5, 200, 63, 0}, 48, {5, 1, 70}, 80},
    {{0, 0}, {0, 4}, 16, {2, 1}, 20},          {{1, 1}, {70, 3}, 8, {4, 2}, 80},
    {{1}, {100}, 28, {3, 1, 66}, 90},
};

std::string name_of(const Case& c) {
  return fmt::format("lengths {} heads {}/{} D {} window {} cache {}{}", fmt::join(c.lengths, ","),
                     c.shape.heads, c.shape.kv_heads, c.D, c.shape.window, c.cache, c.dense ? " dense" : "");
}

TEST(Attention, MatchesTheReferenceInEveryOutputAndGradient) {
  for (const Case& c : kCases)
    expect_matches_reference([&](Trial& trial) { attention(trial, c); }, name_of(c));
  for (const Case& c : kOneQueryEach)
    expect_matches_reference([&](Trial& trial) { attention(trial, c); }, name_of(c));
}

// Where products are of numbers rounded to bf16, scores are, and so what follows from them.
TEST(Attention, MatchesTheReferenceAsMatrixUnitsRound) {
  constexpr double kTolerance = 1e-2;
  std::vector<TestedBackend> backends = {{emulated_cuda_bf16_backend(), kTolerance}};
  if (a_card_is_tested()) backends.push_back({*cuda_plugin().bf16, kTolerance});
  for (const Case& c : kCases)
    expect_matches(
        reference_backend(), backends, [&](Trial& trial) { attention(trial, c); }, name_of(c));
}

TEST(Attention, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { attention(trial, {{5, 2}, {0, 0}, 4, {2, 1}}); });
  expect_gradients_equal_differences([](Trial& trial) {
    attention(trial, {{4, 2}, {3, 1}, 4, {2, 1, 3}, 5});
  });
}

TEST(Attention, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const Case& c : kCases)
    expect_same_bits_on_every_machine([&](Trial& trial) { attention(trial, c); }, name_of(c));
  for (const Case& c : kOneQueryEach)
    expect_same_bits_on_every_machine([&](Trial& trial) { attention(trial, c); }, name_of(c));
}

// Texts in one call against the same in pieces, the keys kept between them.
TEST(Attention, AnySplitOfTheRowsGivesTheSameBits) {
  // Heads of 80 numbers, one or several of which read the same keys, are also those that few queries read
  // where they lie.
  const std::pair<AttentionShape, int64_t> cases[] = {
      {{4, 2, 0}, 8}, {{2, 2, 50}, 8}, {{6, 2, 0}, 80}, {{5, 1, 50}, 16}, {{1, 1, 0}, 80}};
  for (const auto& [shape_of_case, D_of_case] : cases) {
    const AttentionShape shape = shape_of_case;
    const int64_t D = D_of_case;
    const int64_t width = shape.kv_heads * D, cache = shape.window ? 64 : 320;
    expect_any_split_gives_the_same_bits(
        cache * 2 * width,
        [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
          const Tensor k = piece.of(trial.input("k", split_rows(), width, -2, 2));
          const Tensor v = piece.of(trial.input("v", split_rows(), width));
          const Segments segments = trial.segments(piece.lengths);
          const int64_t* positions = trial.numbers(piece.positions);
          trial(Attention{.q = piece.of(trial.input("q", split_rows(), shape.heads * D, -2, 2)),
                          .k = k,
                          .v = v,
                          .past = state_in,
                          .segments = segments,
                          .positions = positions,
                          .shape = shape,
                          .y = piece.of(trial.output("y", split_rows(), shape.heads * D)),
                          .lse = {}});
          trial(KeepKeys{k, v, segments, positions, state_in, state_out});
        });
  }
}

TEST(KeepKeys, WritesInPlaceWhatItWritesBeside) {
  for (const Backend* backend : {&reference_backend(), &cpu_backend()}) {
    Trial trial(*backend, 2);
    const Segments segments = trial.segments({3, 0, 50});
    const int64_t* positions = trial.numbers({39, 4, 20});
    const Tensor k = trial.input("k", 53, 6), v = trial.input("v", 53, 6);
    const Tensor past = trial.input("past", 3, 40 * 12), after = trial.output("after", 3, 40 * 12);
    trial(KeepKeys{k, v, segments, positions, past, after});
    trial(KeepKeys{k, v, segments, positions, past, past});
    EXPECT_EQ(trial.values("past"), trial.values("after"));
  }
}

// Beyond its context a table of growing base turns slower, but for its first pair.
TEST(RotaryTable, GrowsItsBaseWithThePositionAndIsScaled) {
  static const double frequencies[] = {1.0, 0.31, 0.07};
  const auto body = [](Trial& trial) {
    const Segments segments = trial.segments({40, 3, 3});
    trial(RotaryTable{segments, trial.numbers({0, 18, 100'000}), frequencies, trial.output("table", 46, 6),
                      1.25, 4, 20});
    trial(RotaryTable{segments, trial.numbers({0, 18, 100'000}), frequencies, trial.output("plain", 46, 6)});
  };
  expect_matches_reference(body, "table");
  expect_same_bits_on_every_machine(body, "table");
  Trial trial(reference_backend(), 1);
  body(trial);
  const std::vector<double> table = trial.values("table"), plain = trial.values("plain");
  for (size_t i = 0; i < 20 * 6; ++i) ASSERT_DOUBLE_EQ(table[i], 1.25 * plain[i]);
  // Position 39: the base is multiplied by (4 x 40 / 20 - 3)^(6 / 4), the last frequency divided by 5.
  EXPECT_NEAR(table[39 * 6 + 2], 1.25 * std::cos(39 * 0.07 / 5), 1e-12);
  EXPECT_NEAR(table[39 * 6 + 3], 1.25 * std::sin(39.0), 1e-12);
  EXPECT_EQ(table[40 * 6 + 5], 1.25 * plain[40 * 6 + 5]) << "position 18 of another text";
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
