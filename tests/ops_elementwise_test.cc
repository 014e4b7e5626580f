#include "harmonic/ops/elementwise.h"

#include <gtest/gtest.h>

#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

constexpr GateKind kKinds[] = {GateKind::sigmoid, GateKind::silu};

void gate(Trial& trial, int64_t rows, int64_t channels, GateKind kind, bool add) {
  const Tensor x = trial.input("x", rows, channels), gates = trial.input("gate", rows, channels, -8, 8);
  trial(Gate{.x = x, .gate = gates, .y = trial.output("y", rows, channels), .kind = kind});
  trial(GateBackward{
      .x = x,
      .gate = gates,
      .dy = trial.cotangent("y"),
      .kind = kind,
      .dx = trial.gradient("x", add),
      .dgate = trial.gradient("gate", !add),
  });
}

TEST(Add, MatchesTheReferenceInPlaceAndWithNothingToAdd) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    expect_matches_reference(
        [&](Trial& trial) {
          const Tensor a = trial.input("a", rows, channels), b = trial.input("b", rows, channels);
          const Tensor left = trial.changed("left", rows, channels);
          const Tensor right = trial.changed("right", rows, channels);
          const Tensor both = trial.changed("both", rows, channels);
          trial(Add{a, b, trial.output("y", rows, channels)});
          trial(Add{left, b, left});
          trial(Add{a, right, right});
          trial(Add{both, both, both});
          trial(Add{a, {}, trial.output("copy", rows, channels)});
        },
        where);
  });
}

TEST(Gate, MatchesTheReferenceInOutputAndEveryGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const GateKind kind : kKinds)
      for (const bool add : {false, true})
        expect_matches_reference([&](Trial& trial) { gate(trial, rows, channels, kind, add); }, where);
  });
}

TEST(Gate, GradientsEqualCentralDifferences) {
  for (const GateKind kind : kKinds)
    for (const bool add : {false, true})
      expect_gradients_equal_differences([&](Trial& trial) { gate(trial, 6, 5, kind, add); });
}

TEST(Gate, EitherGradientMayBeLeftOut) {
  for (const TestedBackend& tested : tested_backends()) {
    const auto gradients = [&](bool dx, bool dgate) {
      Trial trial(tested.backend, 1);
      trial(GateBackward{
          .x = trial.input("x", 3, 21),
          .gate = trial.input("gate", 3, 21),
          .dy = trial.input("dy", 3, 21),
          .kind = GateKind::silu,
          .dx = dx ? trial.gradient("x") : Gradient{},
          .dgate = dgate ? trial.gradient("gate") : Gradient{},
      });
      return trial.bits(dx ? "gradient of x" : "gradient of gate");
    };
    EXPECT_TRUE(gradients(true, false) == gradients(true, true)) << tested.backend.name;
    EXPECT_EQ(gradients(false, true).size(), static_cast<size_t>(63 * size_of(tested.backend.dtype)));
  }
}

TEST(Gate, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const GateKind kind : kKinds)
    for (const int64_t channels : {1, 33, 130})
      expect_same_bits_on_every_machine([&](Trial& trial) { gate(trial, 300, channels, kind, true); },
                                        fmt::format("{} channels", channels));
}

// An element in the last, shorter vector of a row goes through the same operations as any other.
TEST(Gate, ARowDoesNotDependOnTheRowsBesideIt) {
  for (const GateKind kind : kKinds)
    expect_any_split_gives_the_same_bits(0,
                                         [&](Trial& trial, const Piece& piece, const Tensor&, const Tensor&) {
                                           trial(Gate{
                                               .x = piece.of(trial.input("x", split_rows(), 21)),
                                               .gate = piece.of(trial.input("gate", split_rows(), 21, -8, 8)),
                                               .y = piece.of(trial.output("y", split_rows(), 21)),
                                               .kind = kind,
                                           });
                                         });
}

}  // namespace
}  // namespace harmonic
