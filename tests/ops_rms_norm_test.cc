#include "harmonic/ops/rms_norm.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

struct Shape {
  int64_t rows, channels;
  bool gain = false, add = false, dx = true;
  double size = 1;  // of the numbers of x
  double epsilon = kRmsNormEpsilon;
};

void rms_norm(Trial& trial, const Shape& shape) {
  const Tensor x = trial.input("x", shape.rows, shape.channels, -shape.size, shape.size);
  const Tensor weight = trial.input("weight", 1, shape.channels);
  const Tensor gain = shape.gain ? trial.input("gain", 1, shape.channels) : Tensor{};
  trial(RmsNorm{
      .x = x,
      .weight = weight,
      .gain = gain,
      .y = trial.output("y", shape.rows, shape.channels),
      .epsilon = shape.epsilon,
  });
  trial(RmsNormBackward{
      .x = x,
      .weight = weight,
      .gain = gain,
      .dy = trial.cotangent("y"),
      .dx = shape.dx ? trial.gradient("x", shape.add) : Gradient{},
      .dweight = trial.summed_gradient("weight"),
      .dgain = shape.gain ? trial.summed_gradient("gain") : Tensor{},
      .epsilon = shape.epsilon,
  });
}

// Rows that have a block each on a card, and more rows than do.
TEST(RmsNorm, MatchesTheReferenceOfLongRows) {
  for (const int64_t rows : {3, 64, 65})
    for (const int64_t channels : {511, 512, 1301})
      expect_matches_reference(
          [&](Trial& trial) { rms_norm(trial, {.rows = rows, .channels = channels, .gain = rows > 3}); },
          fmt::format("{} rows of {} channels", rows, channels));
}

// Where rows lie in packs of numbers, and where they do not.
TEST(RmsNorm, RoundsOnACardWhatIsForProductsAlone) {
  for (const int64_t rows : {3, 65})
    for (const int64_t channels : {40, 41, 520})
      expect_rounded_for_products(rows, channels, [&](Trial& trial, const Tensor& y) {
        const auto together = [&](const Tensor& from) {
          const Tensor to = trial.temporary(from.rows, from.cols);
          for (int64_t r = 0; r < from.rows; ++r)
            std::copy_n(from.row<float>(r), from.cols, to.row<float>(r));
          return to;
        };
        trial(RmsNorm{together(trial.input("x", rows, channels)),
                      together(trial.input("weight", 1, channels)), Tensor{}, y});
      });
}

TEST(RmsNorm, MatchesTheReferenceInOutputAndEveryGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    // One channel is only ever scaled to size 1, so that the gradient of x all but vanishes: a difference of
    // equal numbers. At this size of x a part of it remains.
    const double size = channels == 1 ? 0.01 : 1;
    for (const bool gain : {false, true})
      for (const bool add : {false, true})
        expect_matches_reference(
            [&](Trial& trial) {
              rms_norm(trial, {rows, channels, gain, add, true, size});
            },
            where);
  });
}

TEST(RmsNorm, MatchesTheReferenceOnTinyAndHugeRows) {
  for (const double size : {1e-9, 1e-4, 1e6, 1e15})
    expect_matches_reference(
        [&](Trial& trial) {
          rms_norm(trial, {5, 70, true, false, true, size});
        },
        fmt::format("numbers of size {}", size));
}

TEST(RmsNorm, AnyEpsilonIsAddedToTheMeanSquare) {
  for (const double epsilon : {1e-6, 0.1})
    expect_matches_reference(
        [&](Trial& trial) {
          rms_norm(trial, {5, 70, true, false, true, 0.01, epsilon});
        },
        fmt::format("epsilon {}", epsilon));
  expect_gradients_equal_differences([](Trial& trial) {
    rms_norm(trial, {6, 5, true, false, true, 1, 0.1});
  });
  Trial trial(reference_backend(), 1);
  rms_norm(trial, {1, 1, false, false, true, 1, 0.1});
  const double x = trial.values("x")[0];
  EXPECT_DOUBLE_EQ(trial.values("y")[0], x / std::sqrt(x * x + 0.1) * trial.values("weight")[0]);
}

TEST(RmsNorm, WithoutDxLeavesTheOtherGradientsAsTheyAre) {
  expect_matches_reference([](Trial& trial) { rms_norm(trial, {65, 33, true, false, false}); }, "");
}

TEST(RmsNorm, GradientsEqualCentralDifferences) {
  for (const bool gain : {false, true})
    for (const bool add : {false, true})
      expect_gradients_equal_differences([&](Trial& trial) { rms_norm(trial, {6, 5, gain, add}); });
}

TEST(RmsNorm, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t channels : {1, 7, 33, 130})
    expect_same_bits_on_every_machine(
        [&](Trial& trial) {
          rms_norm(trial, {500, channels, true, true});
        },
        fmt::format("{} channels", channels));
}

TEST(RmsNorm, ARowDoesNotDependOnTheRowsBesideIt) {
  expect_any_split_gives_the_same_bits(0, [](Trial& trial, const Piece& piece, const Tensor&, const Tensor&) {
    trial(RmsNorm{
        .x = piece.of(trial.input("x", split_rows(), 70)),
        .weight = trial.input("weight", 1, 70),
        .gain = trial.input("gain", 1, 70),
        .y = piece.of(trial.output("y", split_rows(), 70)),
    });
  });
}

}  // namespace
}  // namespace harmonic
