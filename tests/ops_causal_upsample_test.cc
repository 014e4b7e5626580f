#include "harmonic/ops/causal_upsample.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

struct Shape {
  std::vector<int64_t> lengths;  // blocks of each segment for HoldBlocks, tokens for CausalUpsample
  int64_t channels, stride = 1;
  bool with_states = true, add = false;
};

// Every other segment is fresh. Rows of states that the contract says are not read hold NaN.
void hold_blocks(Trial& trial, const Shape& shape) {
  const Segments blocks = trial.segments(shape.lengths);
  std::vector<uint8_t> fresh;
  for (int64_t b = 0; b < blocks.count; ++b) fresh.push_back(b % 2 == 1);
  const HoldBlocks forward = {
      .x = trial.input("x", blocks.rows(), shape.channels),
      .blocks = blocks,
      .fresh = trial.flags(fresh),
      .start = trial.input("start", 1, shape.channels),
      .state_in = trial.input("state_in", blocks.count, shape.channels),
      .y = trial.output("y", blocks.rows() + blocks.count, shape.channels),
      .state_out = trial.output("state_out", blocks.count, shape.channels),
  };
  for (int64_t b = 0; b < blocks.count; ++b)
    if (forward.fresh[b]) trial.poison_row("state_in", b);
  trial(forward);
  Tensor dstate_out;
  if (shape.with_states) {
    dstate_out = trial.cotangent("state_out");
    for (int64_t b = 0; b < blocks.count; ++b)
      if (forward.fresh[b] && blocks.length(b) == 0) trial.poison_row("cotangent of state_out", b);
  }
  trial(HoldBlocksBackward{
      .blocks = blocks,
      .fresh = forward.fresh,
      .dy = trial.cotangent("y"),
      .dstate_out = dstate_out,
      .dx = trial.gradient("x", shape.add),
      .dstart = trial.summed_gradient("start"),
      .dstate_in = shape.with_states ? trial.written_gradient("state_in") : Tensor{},
  });
}

enum class Base { none, other, itself };

void causal_upsample(Trial& trial, const Shape& shape, Base base) {
  const Segments segments = trial.segments(shape.lengths);
  std::vector<int64_t> phases, closed;
  for (int64_t b = 0; b < segments.count; ++b) {
    phases.push_back((shape.stride - 1 + 2 * b) % shape.stride);
    closed.push_back((phases.back() + segments.length(b)) / shape.stride);
  }
  const Segments blocks = trial.segments(closed);
  const int64_t rows = segments.rows(), channels = shape.channels;
  const Tensor y =
      base == Base::itself ? trial.changed("y", rows, channels) : trial.output("y", rows, channels);
  const CausalUpsample forward = {
      .held = trial.input("held", blocks.rows() + blocks.count, channels),
      .segments = segments,
      .blocks = blocks,
      .phases = trial.numbers(phases),
      .stride = shape.stride,
      .base = base == Base::none    ? Tensor{}
              : base == Base::other ? trial.input("base", rows, channels)
                                    : y,
      .y = y,
  };
  trial(forward);
  trial(CausalUpsampleBackward{
      .segments = segments,
      .blocks = blocks,
      .phases = forward.phases,
      .stride = shape.stride,
      .dy = trial.cotangent("y"),
      .dheld = trial.gradient("held", shape.add),
  });
}

// Texts of a token or none, the tokens of every third closing a block; every other text is fresh.
// `apart`: by the ops that ReadHeld stands for. `in_packs`: on copies whose rows lie together.
enum class Way { together, apart, in_packs };
void read_held(Trial& trial, int64_t count, int64_t channels, Way way = Way::together) {
  std::vector<int64_t> lengths, closed;
  std::vector<uint8_t> fresh;
  for (int64_t b = 0; b < count; ++b) {
    lengths.push_back(b % 5 == 4 ? 0 : 1);
    closed.push_back(lengths.back() > 0 && b % 3 == 2 ? 1 : 0);
    fresh.push_back(b % 2 == 1);
  }
  const Segments segments = trial.segments(lengths), blocks = trial.segments(closed);
  const ReadHeld op = {
      .x = trial.input("x", blocks.rows(), channels),
      .segments = segments,
      .blocks = blocks,
      .fresh = trial.flags(fresh),
      .start = trial.input("start", 1, channels),
      .weight = trial.input("weight", 1, channels),
      .gain = trial.input("gain", 1, channels),
      .state_in = trial.input("state_in", count, channels),
      .base = trial.input("base", segments.rows(), channels),
      .y = trial.output("y", segments.rows(), channels),
      .state_out = trial.output("state_out", count, channels),
  };
  for (int64_t b = 0; b < count; ++b)
    if (fresh[static_cast<size_t>(b)]) trial.poison_row("state_in", b);
  if (way == Way::together) return trial(op);
  if (way == Way::in_packs) {
    ReadHeld copies = op;
    const auto copy = [](const Tensor& from, const Tensor& to) {
      for (int64_t r = 0; r < from.rows; ++r) std::copy_n(from.row<float>(r), from.cols, to.row<float>(r));
    };
    for (Tensor ReadHeld::*tensor :
         {&ReadHeld::x, &ReadHeld::start, &ReadHeld::weight, &ReadHeld::gain, &ReadHeld::state_in,
          &ReadHeld::base, &ReadHeld::y, &ReadHeld::state_out}) {
      copies.*tensor = trial.temporary((op.*tensor).rows, channels);
      copy(op.*tensor, copies.*tensor);
    }
    trial(copies);
    copy(copies.y, op.y);
    return copy(copies.state_out, op.state_out);
  }
  const int64_t rows = blocks.rows() + count;
  const Tensor held = trial.temporary(rows, channels), normed = trial.temporary(rows, channels);
  trial(HoldBlocks{op.x, blocks, op.fresh, op.start, op.state_in, held, op.state_out});
  trial(RmsNorm{held, op.weight, op.gain, normed, op.epsilon});
  // Of blocks of three tokens.
  for (int64_t& block : closed) block = block > 0 ? 2 : 0;
  trial(CausalUpsample{normed, segments, blocks, trial.numbers(closed), 3, op.base, op.y});
}

TEST(ReadHeld, MatchesTheReferenceInOutputsAndStates) {
  for_all_sizes([](int64_t count, int64_t channels, const std::string& where) {
    expect_matches_reference([&](Trial& trial) { read_held(trial, count, channels); }, where);
  });
}

// Rows that more threads share, in packs of numbers where they lie in such.
TEST(ReadHeld, MatchesTheReferenceOfLongRows) {
  for (const int64_t channels : {513, 1100, 2048})
    expect_matches_reference([&](Trial& trial) { read_held(trial, 7, channels); },
                             fmt::format("{} channels", channels));
  for (const TestedBackend& tested : tested_backends()) {
    if (tested.backend.dtype != DType::f32) continue;
    for (const int64_t channels : {40, 520}) {
      Trial trial(tested.backend, 1);
      read_held(trial, 7, channels);
      Trial packed(tested.backend, 1);
      read_held(packed, 7, channels, Way::in_packs);
      EXPECT_EQ(trial.bits("y"), packed.bits("y")) << tested.backend.name;
      EXPECT_EQ(trial.bits("state_out"), packed.bits("state_out")) << tested.backend.name;
    }
  }
}

TEST(ReadHeld, GivesOnAProcessorTheBitsOfTheOpsThatItStandsFor) {
  Trial together(cpu_backend(), 1), apart(cpu_backend(), 1);
  read_held(together, 12, 37);
  read_held(apart, 12, 37, Way::apart);
  for (const std::string name : {"y", "state_out"}) EXPECT_EQ(together.bits(name), apart.bits(name)) << name;
  Trial exact(reference_backend(), 1), definition(reference_backend(), 1);
  read_held(exact, 12, 37);
  read_held(definition, 12, 37, Way::apart);
  for (const std::string name : {"y", "state_out"})
    EXPECT_LE(relative_error(exact.values(name), definition.values(name)), 1e-14) << name;
}

TEST(HoldBlocks, MatchesTheReferenceInEveryOutputStateAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    std::vector<int64_t> lengths = sequence_lengths(rows);
    lengths.insert(lengths.end(), {0, 0, 0});  // fresh and not
    for (const bool with_states : {true, false})
      expect_matches_reference(
          [&](Trial& trial) {
            hold_blocks(trial, {lengths, channels, 1, with_states, !with_states});
          },
          where);
  });
}

TEST(HoldBlocks, GradientsEqualCentralDifferences) {
  for (const bool add : {false, true})
    expect_gradients_equal_differences([&](Trial& trial) {
      hold_blocks(trial, {{4, 0, 0, 3, 1, 1}, 3, 1, true, add});
    });
}

TEST(CausalUpsample, MatchesTheReferenceInEveryOutputAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const int64_t stride : {1, 2, 3, 4, 16, 100})
      for (const Base base : {Base::none, Base::other, Base::itself})
        expect_matches_reference(
            [&](Trial& trial) {
              causal_upsample(trial, {sequence_lengths(rows), channels, stride, true, base == Base::other},
                              base);
            },
            fmt::format("{}, stride {}", where, stride));
  });
}

TEST(CausalUpsample, GradientsEqualCentralDifferences) {
  for (const int64_t stride : {2, 3, 7})
    for (const bool add : {false, true})
      expect_gradients_equal_differences([&](Trial& trial) {
        causal_upsample(trial, {{5, 0, 1, 8, 3}, 3, stride, true, add}, Base::other);
      });
}

// The rule of causality: position t reads block floor((t + 1) / stride) - 1 and nothing of later ones.
TEST(CausalUpsample, PositionReadsTheLastBlockThatIsComplete) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    causal_upsample(trial, {{7}, 1, 3}, Base::none);  // from phase 2: the first token closes a block
    const std::vector<double> held = trial.values("held");
    ASSERT_EQ(held.size(), 4u);  // the block from before and three closed here
    EXPECT_EQ(trial.values("y"),
              (std::vector<double>{held[1], held[1], held[1], held[2], held[2], held[2], held[3]}));
  }
}

TEST(HoldBlocks, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  expect_same_bits_on_every_machine([](Trial& trial) { hold_blocks(trial, {{130, 0, 1, 69}, 37}); }, "");
}

TEST(CausalUpsample, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  expect_same_bits_on_every_machine(
      [](Trial& trial) {
        causal_upsample(trial, {{130, 0, 1, 69}, 37, 4}, Base::other);
      },
      "");
}

TEST(CausalUpsample, AnySplitOfTheTokensGivesTheSameBits) {
  constexpr int64_t kChannels = 33;
  for (const int64_t stride : {1, 3, 4, 16}) {
    expect_any_split_gives_the_same_bits(
        kChannels, [&](Trial& trial, const Piece& piece, const Tensor& state_in, const Tensor& state_out) {
          const Segments segments = trial.segments(piece.lengths);
          const Segments blocks = trial.segments(piece.blocks_closed(stride));
          const auto sequences = static_cast<int64_t>(split_lengths().size());
          const int64_t first = first_block(piece.first_sequence, stride) + piece.positions[0] / stride;
          std::vector<uint8_t> fresh;
          for (const int64_t position : piece.positions) fresh.push_back(position < stride);
          const Tensor held = trial.temporary(blocks.rows() + blocks.count, kChannels);
          trial(HoldBlocks{
              .x = trial.input("x", first_block(sequences, stride), kChannels).rows_of(first, blocks.rows()),
              .blocks = blocks,
              .fresh = trial.flags(fresh),
              .start = trial.input("start", 1, kChannels),
              .state_in = state_in,
              .y = held,
              .state_out = state_out,
          });
          trial(CausalUpsample{
              .held = held,
              .segments = segments,
              .blocks = blocks,
              .phases = trial.numbers(piece.phases(stride)),
              .stride = stride,
              .base = piece.of(trial.input("base", split_rows(), kChannels)),
              .y = piece.of(trial.output("y", split_rows(), kChannels)),
          });
        });
  }
}

}  // namespace
}  // namespace harmonic
