// The checks of op_check.h must be able to fail.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include "op_check.h"

namespace harmonic {
namespace {

struct Sum {
  Tensor a, b, y;
};

Sum sum(Trial& trial) {
  const Sum result = {trial.input("a", 3, 5), trial.input("b", 3, 5), trial.output("y", 3, 5)};
  trial(Add{result.a, result.b, result.y});
  return result;
}

TEST(OpCheck, NoticesAWriteBesideAnOutput) {
  for (const int64_t column : {-1, 5}) {
    Trial trial(reference_backend(), 1);
    sum(trial).y.row<double>(1)[column] = 0;
    EXPECT_NONFATAL_FAILURE(trial.expect_only_outputs_written(), "y was written where it must not be");
  }
}

TEST(OpCheck, NoticesAChangedInput) {
  Trial trial(reference_backend(), 1);
  sum(trial).a.row<double>(2)[4] = 0;
  EXPECT_NONFATAL_FAILURE(trial.expect_only_outputs_written(), "a was written where it must not be");
}

TEST(OpCheck, NoticesAnElementThatWasLeftOut) {
  Trial whole(reference_backend(), 1), part(reference_backend(), 1);
  sum(whole);
  const Tensor a = part.input("a", 3, 5), b = part.input("b", 3, 5), y = part.output("y", 3, 5);
  part(Add{a.rows_of(0, 2), b.rows_of(0, 2), y.rows_of(0, 2)});
  EXPECT_EQ(relative_error(part.values("y"), whole.values("y")), std::numeric_limits<double>::infinity());
  EXPECT_EQ(relative_error(whole.values("y"), whole.values("y")), 0);
}

// The gradient of a + b by a is the cotangent itself; here it is `factor` times that.
void sum_with_gradient(Trial& trial, double factor) {
  sum(trial);
  const Tensor dy = trial.cotangent("y"), da = trial.summed_gradient("a");
  for (int64_t r = 0; r < da.rows; ++r)
    for (int64_t c = 0; c < da.cols; ++c) da.row<double>(r)[c] += factor * dy.row<double>(r)[c];
}

TEST(OpCheck, NoticesAGradientThatIsOffByAMillionth) {
  expect_gradients_equal_differences([](Trial& trial) { sum_with_gradient(trial, 1); });
  EXPECT_NONFATAL_FAILURE(
      expect_gradients_equal_differences([](Trial& trial) { sum_with_gradient(trial, 1 + 1e-6); }),
      "relative_error");
}

TEST(OpCheck, NoticesAnInputThatHasNoInfluence) {
  EXPECT_NONFATAL_FAILURE(expect_gradients_equal_differences([](Trial& trial) {
                            sum(trial);
                            trial.cotangent("y");
                            trial.input("c", 1, 1);
                            trial.summed_gradient("c");
                          }),
                          "c has no influence");
}

}  // namespace
}  // namespace harmonic
