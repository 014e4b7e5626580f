#include "harmonic/ops/causal_pool.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

struct Shape {
  std::vector<int64_t> lengths;
  int64_t channels, ratio;
  bool with_states = true, add = false;
};

// Segments start in every phase. Rows of states that the contract says are not read hold NaN.
void causal_pool(Trial& trial, const Shape& shape) {
  const Segments segments = trial.segments(shape.lengths);
  std::vector<int64_t> phases, closed;
  for (int64_t b = 0; b < segments.count; ++b) {
    phases.push_back((shape.ratio - 1 + 2 * b) % shape.ratio);
    closed.push_back((phases.back() + segments.length(b)) / shape.ratio);
  }
  const Segments blocks = trial.segments(closed);
  const CausalPool forward = {
      .x = trial.input("x", segments.rows(), shape.channels),
      .segments = segments,
      .phases = trial.numbers(phases),
      .ratio = shape.ratio,
      .blocks = blocks,
      .state_in = trial.input("state_in", segments.count, shape.channels),
      .y = trial.output("y", blocks.rows(), shape.channels),
      .state_out = trial.output("state_out", segments.count, shape.channels),
  };
  for (int64_t b = 0; b < segments.count; ++b)
    if (forward.phases[b] == 0) trial.poison_row("state_in", b);
  trial(forward);
  Tensor dstate_out;
  if (shape.with_states) {
    dstate_out = trial.cotangent("state_out");
    for (int64_t b = 0; b < segments.count; ++b)
      if ((forward.phases[b] + segments.length(b)) % shape.ratio == 0)
        trial.poison_row("cotangent of state_out", b);
  }
  trial(CausalPoolBackward{
      .segments = segments,
      .phases = forward.phases,
      .ratio = shape.ratio,
      .blocks = blocks,
      .dy = trial.cotangent("y"),
      .dstate_out = dstate_out,
      .dx = trial.gradient("x", shape.add),
      .dstate_in = shape.with_states ? trial.written_gradient("state_in") : Tensor{},
  });
}

TEST(CausalPool, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const int64_t ratio : {1, 2, 3, 4, 16, 100})
      for (const bool with_states : {true, false})
        expect_matches_reference(
            [&](Trial& trial) {
              causal_pool(trial, {sequence_lengths(rows), channels, ratio, with_states, !with_states});
            },
            fmt::format("{}, blocks of {}", where, ratio));
  });
}

TEST(CausalPool, GradientsEqualCentralDifferences) {
  for (const int64_t ratio : {2, 3, 4, 7})
    for (const bool add : {false, true})
      expect_gradients_equal_differences([&](Trial& trial) {
        causal_pool(trial, {{5, 0, 1, 8, 3, 1}, 3, ratio, true, add});
      });
}

TEST(CausalPool, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t channels : {7, 130})
    expect_same_bits_on_every_machine(
        [&](Trial& trial) {
          causal_pool(trial, {{130, 0, 1, 69}, channels, 4});
        },
        fmt::format("{} channels", channels));
}

TEST(CausalPool, AnySplitOfTheRowsGivesTheSameBits) {
  constexpr int64_t kChannels = 33;
  for (const int64_t ratio : {1, 3, 4, 16}) {
    expect_any_split_gives_the_same_bits(
        kChannels, [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
          const Segments blocks = trial.segments(piece.blocks_closed(ratio));
          const auto sequences = static_cast<int64_t>(split_lengths().size());
          const int64_t first = first_block(piece.first_sequence, ratio) + piece.positions[0] / ratio;
          trial(CausalPool{
              .x = piece.of(trial.input("x", split_rows(), kChannels)),
              .segments = trial.segments(piece.lengths),
              .phases = trial.numbers(piece.phases(ratio)),
              .ratio = ratio,
              .blocks = blocks,
              .state_in = state_in,
              .y = trial.output("y", first_block(sequences, ratio), kChannels).rows_of(first, blocks.rows()),
              .state_out = state_out,
          });
        });
  }
}

}  // namespace
}  // namespace harmonic
