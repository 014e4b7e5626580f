#include "harmonic/ops/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include "emulated_cuda.h"
#include "harmonic/ops/matmul.h"
#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

constexpr double kLossScale = 0.125;

struct Shape {
  int64_t rows, channels, vocabulary;
  bool packed = false, dx = true, dweight = true;
  double size = 1;      // of the numbers of x
  double teacher = -1;  // its share; below 0 there is none
};

std::vector<int32_t> draw_targets(int64_t rows, int64_t vocabulary) {
  const Random random(4, 0);
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r) {
    const auto word =
        static_cast<int32_t>(random.below(static_cast<uint64_t>(r), static_cast<uint64_t>(vocabulary)));
    targets.push_back(r % 5 == 3 ? -1 : word);
  }
  return targets;
}

void linear_cross_entropy(Trial& trial, const Shape& shape) {
  const Tensor weight = trial.input("weight", shape.vocabulary, shape.channels);
  const Tensor x = trial.input("x", shape.rows, shape.channels, -shape.size, shape.size);
  const Tensor packed = shape.packed ? trial.packed(weight) : Tensor{};
  TeacherLogits teacher;
  if (shape.teacher >= 0)
    teacher = {trial.input("teacher x", shape.rows, 5, -2, 2),
               trial.input("teacher weight", shape.vocabulary, 5), shape.teacher};
  const Tensor losses = trial.output("losses", 1, shape.rows);
  trial.constant_cotangent("losses", kLossScale);
  trial(LinearCrossEntropy{
      .x = x,
      .weight = weight,
      .packed = packed,
      .targets = trial.integers(draw_targets(shape.rows, shape.vocabulary)),
      .losses = losses,
      .loss_scale = kLossScale,
      .dx = shape.dx ? trial.written_gradient("x") : Tensor{},
      .dweight = shape.dweight ? trial.summed_gradient("weight") : Tensor{},
      .teacher = teacher,
  });
}

TEST(LinearCrossEntropy, IsMixedWithTheDivergenceFromATeacher) {
  for (const double share : {0.0, 0.3, 1.0}) {
    const auto body = [&](int64_t rows, int64_t channels, int64_t vocabulary) {
      return [=](Trial& trial) {
        linear_cross_entropy(trial, {rows, channels, vocabulary, false, true, true, 1, share});
      };
    };
    for (const int64_t rows : {0, 1, 70, 400})
      expect_matches_reference(body(rows, 33, 257), fmt::format("{} rows, share {}", rows, share));
    expect_gradients_equal_differences(body(6, 4, 5));
    expect_same_bits_on_every_machine(body(300, 7, 33), fmt::format("share {}", share));
  }
}

TEST(LinearCrossEntropy, ATeacherThatIsTheModelItselfIsNoDistanceAway) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    const Tensor x = trial.input("x", 8, 6), weight = trial.input("weight", 9, 6);
    trial(LinearCrossEntropy{.x = x,
                             .weight = weight,
                             .packed = {},
                             .targets = trial.integers(std::vector<int32_t>(8, 3)),
                             .losses = trial.output("losses", 1, 8),
                             .loss_scale = 1,
                             .dx = trial.output("dx", 8, 6),
                             .dweight = {},
                             .teacher = {x, weight, 1}});
    for (const char* name : {"losses", "dx"})
      for (const double value : trial.values(name)) EXPECT_NEAR(value, 0, 1e-6) << name;
  }
}

TEST(LinearCrossEntropy, MatchesTheReferenceInLossesAndGradients) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    for (const int64_t vocabulary : {2, 257}) {
      const bool packed = (rows + vocabulary) % 2 == 0;
      expect_matches_reference(
          [&](Trial& trial) {
            linear_cross_entropy(trial, {rows, channels, vocabulary, packed});
          },
          fmt::format("{}, {} words", where, vocabulary));
    }
  });
}

// A gradient of the logits that lies between two numbers of bf16 may be rounded the other way than the
// reference's, which has more digits: hence the tolerance.
TEST(LinearCrossEntropy, InBf16MatchesTheReferenceOfRoundedOperands) {
  if (!multiplies_in_bf16()) GTEST_SKIP() << "this processor has no bf16 products";
  for (const int64_t rows : {0, 1, 63, 500, 4097}) {
    for (const int64_t channels : {7, 33}) {
      for (const int64_t vocabulary : {2, 257}) {
        for (const bool packed : {false, true})
          expect_matches_bf16_reference(
              [&](Trial& trial) {
                linear_cross_entropy(trial, {rows, channels, vocabulary, packed});
              },
              fmt::format("{} rows, {} channels, {} words", rows, channels, vocabulary), 2e-4);
      }
    }
  }
  expect_matches_bf16_reference(
      [](Trial& trial) {
        linear_cross_entropy(trial, {300, 33, 1031, false, true, true, 1, 0.3});
      },
      "with a teacher", 2e-4);
}

TEST(LinearCrossEntropy, MatchesTheReferenceWithALargeVocabulary) {
  expect_matches_reference([](Trial& trial) { linear_cross_entropy(trial, {130, 16, 9001}); }, "");
}

TEST(LinearCrossEntropy, MatchesTheReferenceWithoutSomeGradients) {
  for (const bool dx : {false, true})
    expect_matches_reference(
        [&](Trial& trial) {
          linear_cross_entropy(trial, {65, 33, 70, false, dx, false});
        },
        "");
}

// Logits of hundreds: their exponentials overflow unless the largest is taken out first. An error of a logit
// in proportion to its size is one of its probability in proportion to that error.
TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  expect_matches_reference(
      [](Trial& trial) {
        linear_cross_entropy(trial, {20, 16, 70, false, true, true, 300});
      },
      "", {{"gradient of x", 100}, {"gradient of weight", 100}});
}

TEST(LinearCrossEntropy, GradientsEqualCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { linear_cross_entropy(trial, {7, 5, 6}); });
}

TEST(LinearCrossEntropy, ARowWithoutATargetHasNoLossAndNoGradient) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    linear_cross_entropy(trial, {4, 3, 6});
    EXPECT_EQ(trial.values("losses")[3], 0) << tested.backend.name;
    const std::vector<double> dx = trial.values("gradient of x");
    EXPECT_EQ(std::vector<double>(dx.end() - 3, dx.end()), std::vector<double>(3, 0.0));
  }
}

TEST(LinearCrossEntropy, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const bool packed : {false, true})
    for (const int64_t vocabulary : {50, 1031})
      expect_same_bits_on_every_machine(
          [&](Trial& trial) {
            linear_cross_entropy(trial, {300, 33, vocabulary, packed});
          },
          fmt::format("{} words", vocabulary));
}

TEST(LinearCrossEntropy, ALossDoesNotDependOnTheRowsBesideIt) {
  expect_any_split_gives_the_same_bits(0, [](Trial& trial, const Piece& piece, const Tensor&, const Tensor&) {
    const std::vector<int32_t> targets = draw_targets(split_rows(), 257);
    const auto first = targets.begin() + piece.first_row;
    trial(LinearCrossEntropy{
        .x = piece.of(trial.input("x", split_rows(), 33)),
        .weight = trial.input("weight", 257, 33),
        .packed = {},
        .targets = trial.integers({first, first + piece.rows()}),
        .losses = trial.output("losses", 1, split_rows()).columns(piece.first_row, piece.rows()),
        .dx = piece.of(trial.output("dx", split_rows(), 33)),
        .dweight = {},
    });
  });
}

// A card holds gradients of logits in 16 bits: a word of probability 1e-8 keeps its own.
TEST(LinearCrossEntropy, ARareWordsGradientIsNotLostOnACard) {
  const Backend& backend = emulated_cuda_bf16_backend();
  ThreadPool pool(1);
  Arena memory, scratch;
  Context context{pool, scratch};
  const auto zeros = [&](int64_t rows, int64_t cols) { return memory.zeros(rows, cols, DType::f32); };
  const Tensor x = zeros(1, 1), weight = zeros(3, 1), losses = zeros(1, 1), dx = zeros(1, 1),
               dweight = zeros(3, 1);
  x.as<float>()[0] = 1;
  weight.as<float>()[0] = 18;
  int32_t target = 0;
  const Tensor targets{&target, 1, 1, 1, DType::i32, Device::cpu};
  backend(context, LinearCrossEntropy{x, weight, {}, targets, losses, kLossScale, dx, dweight});
  const double expected = kLossScale * std::exp(-18.0);
  for (int64_t word : {1, 2}) EXPECT_NEAR(dweight.as<float>()[word], expected, 1e-2 * expected);
}

}  // namespace
}  // namespace harmonic
