#include "harmonic/ops/embedding.h"

#include <gtest/gtest.h>

#include "op_check.h"

namespace harmonic {
namespace {

// Few tokens, so that many rows add to the same row of the table.
constexpr int64_t kVocabulary = 23;

void embedding(Trial& trial, int64_t rows, int64_t channels) {
  const Random random(1, 0);
  std::vector<int32_t> drawn;
  for (int64_t r = 0; r < rows; ++r)
    drawn.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(r), kVocabulary)));
  const Tensor tokens = trial.integers(drawn);
  trial(Embedding{
      .tokens = tokens,
      .table = trial.input("table", kVocabulary, channels),
      .packed = {},
      .y = trial.output("y", rows, channels),
  });
  trial(EmbeddingBackward{
      .tokens = tokens,
      .dy = trial.cotangent("y"),
      .dtable = trial.summed_gradient("table"),
  });
}

TEST(Embedding, MatchesTheReferenceInOutputAndGradient) {
  for_all_sizes([](int64_t rows, int64_t channels, const std::string& where) {
    expect_matches_reference([&](Trial& trial) { embedding(trial, rows, channels); }, where);
  });
}

TEST(Embedding, GradientEqualsCentralDifferences) {
  expect_gradients_equal_differences([](Trial& trial) { embedding(trial, 40, 3); });
}

TEST(Embedding, GivesTheSameBitsWithAnyThreadsAndVectorInstructions) {
  for (const int64_t channels : {1, 33, 130})
    expect_same_bits_on_every_machine([&](Trial& trial) { embedding(trial, 500, channels); },
                                      fmt::format("{} channels", channels));
}

}  // namespace
}  // namespace harmonic
