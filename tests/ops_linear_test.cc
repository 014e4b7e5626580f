#include "harmonic/ops/linear.h"

#include <gtest/gtest.h>

#include "harmonic/ops/matmul.h"
#include "op_check.h"
#include "op_split_check.h"

namespace harmonic {
namespace {

enum class Base { none, other, itself };

struct Shape {
  int64_t rows, inputs, outputs;
  bool packed = false, bias = false, negate = false;
  Base base = Base::none;
  bool add = false, parameter_gradients = true;
};

void linear(Trial& trial, const Shape& shape) {
  const Tensor weight = trial.input("weight", shape.outputs, shape.inputs);
  const Tensor y = shape.base == Base::itself ? trial.changed("y", shape.rows, shape.outputs)
                                              : trial.output("y", shape.rows, shape.outputs);
  const Tensor x = trial.input("x", shape.rows, shape.inputs);
  trial(Linear{
      .x = x,
      .weight = weight,
      .packed = shape.packed ? trial.packed(weight) : Tensor{},
      .bias = shape.bias ? trial.input("bias", 1, shape.outputs) : Tensor{},
      .base = shape.base == Base::none    ? Tensor{}
              : shape.base == Base::other ? trial.input("base", shape.rows, shape.outputs)
                                          : y,
      .negate = shape.negate,
      .y = y,
  });
  trial(LinearBackward{
      .x = x,
      .weight = weight,
      .negate = shape.negate,
      .dy = trial.cotangent("y"),
      .dx = trial.gradient("x", shape.add),
      .dweight = shape.parameter_gradients ? trial.summed_gradient("weight") : Tensor{},
      .dbias = shape.parameter_gradients && shape.bias ? trial.summed_gradient("bias") : Tensor{},
  });
}

// Every combination of what may be left out.
std::vector<Shape> variants(int64_t rows, int64_t inputs, int64_t outputs) {
  std::vector<Shape> result;
  for (const bool packed : {false, true})
    for (const Base base : {Base::none, Base::other, Base::itself})
      for (const bool negate : {false, true}) {
        const bool bias = !negate && base != Base::other;
        result.push_back({rows, inputs, outputs, packed, bias, negate, base, packed != negate,
                          base != Base::itself || !packed});
      }
  return result;
}

TEST(Linear, MatchesTheReferenceInOutputAndEveryGradient) {
  for_all_sizes([](int64_t rows, int64_t inputs, const std::string& where) {
    const int64_t outputs = rows % 2 == 0 ? 70 - inputs / 2 : inputs + 3;
    for (const Shape& shape : variants(rows, inputs, outputs))
      expect_matches_reference([&](Trial& trial) { linear(trial, shape); },
                               fmt::format("{}, {} outputs", where, outputs));
  });
}

TEST(Linear, InBf16MatchesTheReferenceOfRoundedOperands) {
  if (!multiplies_in_bf16()) GTEST_SKIP() << "this processor has no bf16 products";
  for_all_sizes([](int64_t rows, int64_t inputs, const std::string& where) {
    const int64_t outputs = rows % 2 == 0 ? 70 - inputs / 2 : inputs + 3;
    for (const Shape& shape : variants(rows, inputs, outputs))
      expect_matches_bf16_reference([&](Trial& trial) { linear(trial, shape); },
                                    fmt::format("{}, {} outputs", where, outputs));
  });
}

TEST(Linear, InBf16GivesTheSameBitsWithAnyThreads) {
  if (!multiplies_in_bf16()) GTEST_SKIP() << "this processor has no bf16 products";
  for (const Shape& shape : variants(201, 33, 70)) {
    Trial first(cpu_bf16_backend(), 1);
    linear(first, shape);
    for (const int threads : {2, 5}) {
      Trial again(cpu_bf16_backend(), threads);
      linear(again, shape);
      for (const std::string& name : first.outputs())
        EXPECT_TRUE(again.bits(name) == first.bits(name)) << name << " with " << threads << " threads";
    }
  }
}

TEST(Linear, GradientsEqualCentralDifferences) {
  for (const Shape& shape : variants(6, 5, 4))
    expect_gradients_equal_differences([&](Trial& trial) { linear(trial, shape); });
}

TEST(Linear, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const Shape& shape : variants(200, 33, 70))
    expect_same_bits_on_every_machine([&](Trial& trial) { linear(trial, shape); }, "");
}

TEST(Linear, APackedWeightGivesTheSameBits) {
  for (const int64_t rows : {1, 5, 200}) {
    const auto result = [&](bool packed) {
      Trial trial(cpu_backend(), 2);
      linear(trial, {.rows = rows, .inputs = 33, .outputs = 70, .packed = packed, .bias = true});
      return trial.bits("y");
    };
    EXPECT_TRUE(result(true) == result(false)) << rows << " rows";
  }
}

TEST(Linear, ARowDoesNotDependOnTheRowsBesideIt) {
  expect_any_split_gives_the_same_bits(0, [](Trial& trial, const Piece& piece, const Tensor&, const Tensor&) {
    trial(Linear{
        .x = piece.of(trial.input("x", split_rows(), 65)),
        .weight = trial.input("weight", 70, 65),
        .packed = {},
        .bias = trial.input("bias", 1, 70),
        .base = {},
        .y = piece.of(trial.output("y", split_rows(), 70)),
    });
  });
}

// dx of a row is a result of that row alone, as y is.
TEST(Linear, AGradientOfARowDoesNotDependOnTheRowsBesideIt) {
  expect_any_split_gives_the_same_bits(0, [](Trial& trial, const Piece& piece, const Tensor&, const Tensor&) {
    trial(LinearBackward{
        .x = piece.of(trial.input("x", split_rows(), 65)),
        .weight = trial.input("weight", 70, 65),
        .dy = piece.of(trial.input("dy", split_rows(), 70)),
        .dx = {piece.of(trial.output("dx", split_rows(), 65))},
        .dweight = {},
        .dbias = {},
    });
  });
}

}  // namespace
}  // namespace harmonic
