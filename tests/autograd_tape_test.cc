#include "harmonic/autograd/tape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "harmonic/autograd/functions.h"
#include "harmonic/base/random.h"

namespace harmonic {
namespace {

using Numbers = std::vector<double>;

Numbers numbers_of(const Tensor& tensor) {
  Numbers result;
  for (int64_t r = 0; r < tensor.rows; ++r)
    for (int64_t c = 0; c < tensor.cols; ++c) result.push_back(tensor.row<double>(r)[c]);
  return result;
}

class TapeTest : public ::testing::Test {
 protected:
  Tape recording() { return Tape(reference_backend(), context_, memory_, &gradients_); }

  // A variable that nothing made: its gradient stays for the test to read.
  static Variable leaf(Tape& tape, int64_t rows, int64_t cols, double first = 1) {
    const Variable variable = tape.variable(rows, cols);
    for (int64_t i = 0; i < rows * cols; ++i) variable.value.as<double>()[i] = first + static_cast<double>(i);
    return variable;
  }

  // The end of a loss: sends 1, 2, 3, ... times `factor` back to `variable`.
  static void send_back(Tape& tape, const Variable& variable, double factor = 1) {
    tape.record({}, [=](Tape& t) {
      const Gradient gradient = t.contribute(variable);
      double number = 0;
      for (int64_t r = 0; r < gradient.to.rows; ++r) {
        for (int64_t c = 0; c < gradient.to.cols; ++c) {
          double& place = gradient.to.row<double>(r)[c];
          place = (gradient.add ? place : 0) + factor * ++number;
        }
      }
    });
  }

  ThreadPool pool_{1};
  Arena scratch_, memory_;
  Context context_{pool_, scratch_};
  GradientPool gradients_;
};

TEST_F(TapeTest, WithoutRecordingNothingIsRemembered) {
  Tape tape(reference_backend(), context_, memory_, nullptr);
  const Variable x = leaf(tape, 2, 2);
  EXPECT_FALSE(tape.recording());
  EXPECT_EQ(x.node, nullptr);
  EXPECT_FALSE(tape.saved(3, 3));
  tape.record(x, [](Tape&) { FAIL() << "recorded although recording is off"; });
  tape.backward();
  EXPECT_EQ(numbers_of(add(tape, x, x).value), (Numbers{2, 4, 6, 8}));
}

TEST_F(TapeTest, TheWayBackIsTheReverseOfTheWayForward) {
  Tape tape = recording();
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) tape.record({}, [i, &order](Tape&) { order.push_back(i); });
  tape.backward();
  EXPECT_EQ(order, (std::vector<int>{3, 2, 1, 0}));
  tape.backward();  // once only
  EXPECT_EQ(order.size(), 4u);
}

TEST_F(TapeTest, GradientsOfAVariableThatIsUsedTwiceAddUp) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 3);
  const Variable sum = add(tape, x, x), more = add(tape, sum, x);
  send_back(tape, more);
  tape.backward();
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{3, 6, 9}));
}

TEST_F(TapeTest, ContributionsFromSeveralPlacesAddUp) {
  Tape tape = recording();
  const Variable x = leaf(tape, 2, 2);
  for (const double factor : {1.0, 10.0, 100.0}) send_back(tape, x, factor);
  tape.backward();
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{111, 222, 333, 444}));
}

TEST_F(TapeTest, SlicesReachTheirColumnsAndTheOthersAreZero) {
  Tape tape = recording();
  const Variable x = leaf(tape, 2, 5);
  send_back(tape, x.columns(1, 2));
  send_back(tape, x.columns(2, 1), 10);
  tape.backward();
  EXPECT_EQ(numbers_of(tape.gradient(x)), (Numbers{0, 1, 12, 0, 0, 0, 3, 24, 0, 0}));
}

// Memory that comes back from another gradient holds its numbers: what is never reached must be zero, what is
// reached first must not be added to, in whatever order and however many slices there are.
TEST_F(TapeTest, AnySlicesInAnyOrderAddUp) {
  constexpr int64_t kColumns = 23;
  const Random random(1, stream_of("slices"));
  uint64_t draw = 0;
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random.below(draw++, static_cast<uint64_t>(limit)));
  };
  for (int turn = 0; turn < 200; ++turn) {
    const Tensor stale = gradients_.take(2, kColumns, DType::f64);
    std::fill_n(stale.as<double>(), stale.size(), std::nan(""));
    gradients_.give_back(stale);
    Tape tape = recording();
    const Variable x = leaf(tape, 2, kColumns);
    Numbers expected(2 * kColumns, 0);
    const int64_t slices = below(14);
    for (int64_t i = 0; i < slices; ++i) {
      const int64_t begin = below(kColumns), count = 1 + below(std::min<int64_t>(5, kColumns - begin));
      send_back(tape, x.columns(begin, count));
      double number = 0;
      for (int64_t r = 0; r < 2; ++r)
        for (int64_t c = 0; c < count; ++c)
          expected[static_cast<size_t>(r * kColumns + begin + c)] += ++number;
    }
    tape.backward();
    EXPECT_EQ(numbers_of(tape.gradient(x)), expected) << "turn " << turn;
  }
}

TEST_F(TapeTest, ASliceOfASliceIsOfTheWhole) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 6);
  const Variable part = x.columns(1, 4).columns(2, 2);
  EXPECT_EQ(numbers_of(part.value), (Numbers{4, 5}));
  send_back(tape, part);
  tape.backward();
  EXPECT_EQ(numbers_of(tape.gradient(x)), (Numbers{0, 0, 0, 1, 2, 0}));
}

TEST_F(TapeTest, OverwritingSlicesTogetherFillTheWhole) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 4);
  tape.record({}, [x](Tape& t) {
    for (const int64_t column : {0, 2}) {
      const Tensor to = t.overwrite(x.columns(column, 2));
      to.as<double>()[0] = static_cast<double>(column) + 1;
      to.as<double>()[1] = static_cast<double>(column) + 2;
    }
  });
  tape.backward();
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{1, 2, 3, 4}));
}

TEST_F(TapeTest, OverwritingAWholeThatHasAGradientIsAMistakeThatIsSeen) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 4);
  tape.record({}, [x](Tape& t) { EXPECT_THROW(t.overwrite(x), std::logic_error); });
  send_back(tape, x);
  tape.backward();
}

TEST_F(TapeTest, WhereNoGradientHasComeItIsZero) {
  Tape tape = recording();
  const Variable x = leaf(tape, 2, 2);
  tape.record({}, [x](Tape& t) { EXPECT_EQ(numbers_of(t.gradient(x)), (Numbers{0, 0, 0, 0})); });
  tape.backward();
}

TEST_F(TapeTest, WhereNoGradientIsWantedNoneIsGiven) {
  Tape tape = recording();
  Variable x = leaf(tape, 1, 2);
  const Variable constant{x.value};  // no node
  EXPECT_FALSE(tape.contribute(constant));
  const Variable sum = add(tape, constant, x);
  send_back(tape, sum);
  tape.backward();
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{1, 2}));
}

TEST_F(TapeTest, PassingOnMovesTheGradientWithoutACopy) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 2), y = tape.variable(1, 2);
  const void* before = nullptr;
  tape.record({}, [x, y, &before](Tape& t) {
    before = t.gradient(y).data;
    t.pass(y, x);
  });
  send_back(tape, y);
  tape.backward();
  EXPECT_EQ(x.node->gradient.data, before);
  EXPECT_FALSE(y.node->gradient);
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{1, 2}));
}

TEST_F(TapeTest, PassingOnToOneThatHasAGradientAddsToIt) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 2), y = tape.variable(1, 2);
  tape.record({}, [x, y](Tape& t) { t.pass(y, x); });
  send_back(tape, y);
  send_back(tape, x, 10);
  tape.backward();
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{11, 22}));
}

TEST_F(TapeTest, TheGradientOfAnOutputIsGivenUpWhenItsOpIsUndone) {
  Tape tape = recording();
  const Variable x = leaf(tape, 1, 2);
  Variable y = x;
  for (int i = 0; i < 100; ++i) y = add(tape, y, x);
  send_back(tape, y);
  tape.backward();
  EXPECT_FALSE(y.node->gradient);
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{101, 202}));
  EXPECT_LE(gradients_.peak(), 4 * 64) << "a hundred sums need a few buffers, not a hundred";
}

TEST_F(TapeTest, TheNextTapeStartsWithAllMemoryFree) {
  int64_t first = 0;
  for (int turn = 0; turn < 5; ++turn) {
    const ArenaScope scope(memory_);
    {
      Tape tape = recording();
      const Variable x = leaf(tape, 4, 100);
      send_back(tape, add(tape, add(tape, x, x), x));
      tape.backward();
    }
    if (turn == 0) first = gradients_.peak();
    EXPECT_EQ(gradients_.peak(), first);
  }
}

// d/dx of sum(r * (x W^T)) is r W, d/dW is r^T x: through the ops as model code calls them.
TEST_F(TapeTest, ALinearMapGivesTheGradientsOfTheTextbook) {
  Tape tape = recording();
  const Variable x = leaf(tape, 2, 3);  // 1 2 3; 4 5 6
  Parameter weight;
  weight.value = memory_.zeros(2, 3, DType::f64);
  weight.grad = memory_.zeros(2, 3, DType::f64);
  for (int i = 0; i < 6; ++i) weight.value.as<double>()[i] = i;  // 0 1 2; 3 4 5
  const Variable y = linear(tape, x, weight);
  EXPECT_EQ(numbers_of(y.value), (Numbers{8, 26, 17, 62}));
  send_back(tape, y);  // 1 2; 3 4
  tape.backward();
  EXPECT_EQ(numbers_of(x.node->gradient), (Numbers{6, 9, 12, 12, 19, 26}));
  EXPECT_EQ(numbers_of(weight.grad), (Numbers{13, 17, 21, 18, 24, 30}));
}

}  // namespace
}  // namespace harmonic
