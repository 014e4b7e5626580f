#include "harmonic/ops/optimizer.h"

#include <gtest/gtest.h>

#include "op_check.h"

namespace harmonic {
namespace {

// Learning rates are large, so that an error of the update is one of the value.

void adamw(Trial& trial, int64_t rows, int64_t cols, int64_t step) {
  trial(AdamW{
      .value = trial.changed("value", rows, cols),
      .grad = trial.changed("grad", rows, cols, -3, 3),
      .m = trial.changed("m", rows, cols),
      .v = trial.changed("v", rows, cols, 0, 2),
      .gradient_scale = 0.75,
      .lr = 0.5,
      .beta1 = 0.875,
      .beta2 = 0.96875,
      .weight_decay = 0.25,
      .step = step,
  });
}

void muon(Trial& trial, int64_t rows, int64_t cols) {
  const MuonMatrix matrix{
      .value = trial.changed("value", rows, cols),
      .grad = trial.changed("grad", rows, cols, -3, 3),
      .m = trial.changed("m", rows, cols),
  };
  trial(Muon{
      .matrices = &matrix,
      .count = 1,
      .gradient_scale = 0.75,
      .lr = 0.5,
      .momentum = 0.9375,
      .weight_decay = 0.25,
  });
}

void sum_of_squares(Trial& trial, int64_t rows, int64_t cols) {
  const Tensor x = trial.input("x", rows, cols);
  trial(SumsOfSquares{.tensors = &x, .count = 1, .results = trial.output_numbers("sum", 1)});
}

TEST(AdamW, MatchesTheReferenceInValueAndMomentsAndClearsTheGradient) {
  for_all_sizes([](int64_t rows, int64_t cols, const std::string& where) {
    for (const int64_t step : {1, 2, 1000})
      expect_matches_reference([&](Trial& trial) { adamw(trial, rows, cols, step); }, where);
  });
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    adamw(trial, 3, 21, 1);
    EXPECT_EQ(trial.values("grad"), std::vector<double>(63, 0.0));
  }
}

// At the first step from no moments, both corrected moments are those of the gradient: a step of lr.
TEST(AdamW, TheFirstStepHasTheSizeOfTheLearningRate) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    trial(AdamW{
        .value = trial.changed("value", 1, 20, 0, 0),
        .grad = trial.changed("grad", 1, 20, 0.5, 3),
        .m = trial.changed("m", 1, 20, 0, 0),
        .v = trial.changed("v", 1, 20, 0, 0),
        .lr = 0.25,
    });
    for (const double value : trial.values("value")) EXPECT_NEAR(value, -0.25, 1e-6) << tested.backend.name;
  }
}

TEST(AdamW, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t cols : {1, 33, 130})
    expect_same_bits_on_every_machine([&](Trial& trial) { adamw(trial, 300, cols, 3); },
                                      fmt::format("{} columns", cols));
}

TEST(SumsOfSquares, MatchesTheReferenceInDouble) {
  for_all_sizes([](int64_t rows, int64_t cols, const std::string& where) {
    expect_matches_reference([&](Trial& trial) { sum_of_squares(trial, rows, cols); }, where,
                             {{"sum", 1e-7}});  // accumulated in double from numbers that are exact
  });
}

TEST(SumsOfSquares, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t cols : {1, 33, 130, 9000})
    expect_same_bits_on_every_machine([&](Trial& trial) { sum_of_squares(trial, 100, cols); },
                                      fmt::format("{} columns", cols));
}

constexpr int64_t kMuonShapes[][2] = {{1, 1},   {1, 7},   {7, 1},    {3, 16},   {16, 16},
                                      {33, 64}, {64, 33}, {65, 130}, {200, 63}, {130, 130}};

TEST(Muon, MatchesTheReferenceInValueAndMomentumAndClearsTheGradient) {
  for (const auto& [rows, cols] : kMuonShapes) {
    // The five steps multiply what is small by up to 3.4445^5 = 485, rounding errors too.
    expect_matches_reference([&](Trial& trial) { muon(trial, rows, cols); },
                             fmt::format("{} x {}", rows, cols), {{"value", 10}});
  }
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    muon(trial, 3, 21);
    EXPECT_EQ(trial.values("grad"), std::vector<double>(63, 0.0));
  }
}

// As many as a model has of one shape.
TEST(Muon, OfSeveralMatricesIsThatOfEach) {
  for (const auto& [rows, cols] : kMuonShapes)
    expect_matches_reference(
        [&](Trial& trial) {
          std::vector<MuonMatrix> matrices;
          for (int i = 0; i < 3; ++i) {
            const double size = i == 1 ? 0 : 1 + i;  // one of zeros
            matrices.push_back({.value = trial.changed(fmt::format("value {}", i), rows, cols),
                                .grad = trial.changed(fmt::format("grad {}", i), rows, cols, -size, size),
                                .m = trial.changed(fmt::format("m {}", i), rows, cols, -size, size)});
          }
          trial(Muon{.matrices = matrices.data(), .count = 3, .lr = 0.5, .weight_decay = 0.25});
        },
        fmt::format("{} x {}", rows, cols), {{"value 0", 10}, {"value 1", 10}, {"value 2", 10}});
}

TEST(SumsOfSquares, OfSeveralTensorsAreThoseOfEach) {
  expect_matches_reference(
      [](Trial& trial) {
        std::vector<Tensor> tensors;
        for (const int64_t rows : {1, 300, 2, 70})
          tensors.push_back(trial.input(fmt::format("x {}", rows), rows, 61));
        trial(SumsOfSquares{tensors.data(), 4, trial.output_numbers("sums", 4)});
      },
      "", {{"sums", 1e-7}});
}

TEST(Muon, MatchesTheReferenceOnTinyGradients) {
  expect_matches_reference(
      [](Trial& trial) {
        const MuonMatrix matrix{
            .value = trial.changed("value", 20, 33),
            .grad = trial.changed("grad", 20, 33, -1e-9, 1e-9),
            .m = trial.changed("m", 20, 33, -1e-9, 1e-9),
        };
        trial(Muon{
            .matrices = &matrix,
            .count = 1,
            .lr = 0.5,
        });
      },
      "", {{"value", 10}});
}

TEST(Muon, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const auto& [rows, cols] : kMuonShapes)
    expect_same_bits_on_every_machine([&](Trial& trial) { muon(trial, rows, cols); },
                                      fmt::format("{} x {}", rows, cols));
}

TEST(Muon, AMatrixOfZerosStaysAsItIs) {
  for (const TestedBackend& tested : tested_backends()) {
    Trial trial(tested.backend, 1);
    const MuonMatrix matrix{
        .value = trial.changed("value", 4, 6, 0.5, 0.5),
        .grad = trial.changed("grad", 4, 6, 0, 0),
        .m = trial.changed("m", 4, 6, 0, 0),
    };
    trial(Muon{
        .matrices = &matrix,
        .count = 1,
        .lr = 1,
    });
    EXPECT_EQ(trial.values("value"), std::vector<double>(24, 0.5)) << tested.backend.name;
  }
}

// The largest eigenvalue of a symmetric matrix of size n without negative ones, by power iteration.
double largest_eigenvalue(const std::vector<double>& matrix, size_t n) {
  std::vector<double> vector(n), next(n);
  for (size_t i = 0; i < n; ++i) vector[i] = 1 + 0.1 * static_cast<double>(i % 7);
  double size = 0;
  for (int step = 0; step < 2000; ++step) {
    for (size_t i = 0; i < n; ++i)
      next[i] =
          std::inner_product(vector.begin(), vector.end(), matrix.begin() + static_cast<long>(i * n), 0.0);
    size = std::sqrt(std::inner_product(next.begin(), next.end(), next.begin(), 0.0));
    for (size_t i = 0; i < n; ++i) vector[i] = next[i] / size;
  }
  return size;
}

// The published coefficients bring singular values into about [0.7, 1.2], not to 1. The size of the gradient
// does not matter.
TEST(Muon, TheUpdateIsNearOrthogonalWhateverTheSizeOfTheGradient) {
  for (const TestedBackend& tested : tested_backends()) {
    for (const double size : {1e-8, 1.0, 1e8}) {
      constexpr size_t kRows = 16, kCols = 48;
      Trial trial(tested.backend, 1);
      const MuonMatrix matrix{
          .value = trial.changed("value", kRows, kCols, 0, 0),
          .grad = trial.changed("grad", kRows, kCols, -size, size),
          .m = trial.changed("m", kRows, kCols, 0, 0),
      };
      trial(Muon{
          .matrices = &matrix,
          .count = 1,
          .lr = 1,
      });
      const std::vector<double> o = trial.values("value");  // -O
      std::vector<double> gram(kRows * kRows), mirrored(kRows * kRows);
      for (size_t i = 0; i < kRows; ++i) {
        for (size_t j = 0; j < kRows; ++j) {
          for (size_t k = 0; k < kCols; ++k) gram[i * kRows + j] += o[i * kCols + k] * o[j * kCols + k];
          mirrored[i * kRows + j] = (i == j ? 2.0 : 0.0) - gram[i * kRows + j];
        }
      }
      const double largest = std::sqrt(largest_eigenvalue(gram, kRows));
      const double smallest = std::sqrt(2 - largest_eigenvalue(mirrored, kRows));
      EXPECT_LT(largest, 1.25) << tested.backend.name << " at size " << size;
      EXPECT_GT(smallest, 0.65) << tested.backend.name << " at size " << size;
    }
  }
}

}  // namespace
}  // namespace harmonic
