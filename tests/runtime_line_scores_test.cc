#include "harmonic/runtime/line_scores.h"

#include <gtest/gtest.h>

#include <cmath>

#include "harmonic/base/random.h"
#include "harmonic/runtime/score_state.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

TEST(LineScores, ATokenCountsForTheLineItBeginsIn) {
  LineScores lines(100);
  std::vector<LineScore> got;
  const auto keep = [&](const LineScore& line) { got.push_back(line); };
  lines.add("a", 1, keep);
  lines.add("b\n\nc", 2, keep);
  lines.add("d", 4, keep);
  EXPECT_EQ(got.size(), 2u);
  lines.finish(keep);
  lines.finish(keep);
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].text, "ab\n");
  EXPECT_EQ(got[0].bits, 3);
  EXPECT_EQ(got[1].text, "\n");
  EXPECT_EQ(got[1].bits, 0);
  EXPECT_EQ(got[2].text, "cd");
  EXPECT_EQ(got[2].bits, 4);
  EXPECT_EQ(got[2].bytes, 2);
  EXPECT_EQ(got[2].line, 3);
}

TEST(OutlierScore, CountsDeviationsFromTheMeanOfThoseBefore) {
  OutlierScore score;
  const Random random(1, 2);
  double sum = 0, squares = 0;
  for (int i = 0; i < 500; ++i) {
    const double value = 2 + random.uniform(static_cast<uint64_t>(i));
    const double mean = sum / i, deviation = std::sqrt(squares / i - mean * mean);
    const std::optional<double> got = score.next(value);
    EXPECT_EQ(got.has_value(), i >= OutlierScore::kFewest) << i;
    if (got) {
      EXPECT_NEAR(*got, (value - mean) / deviation, 1e-6) << i;
    }
    sum += value;
    squares += value * value;
  }
  EXPECT_GT(score.next(10), 20);
}

TEST(OutlierScore, FollowsAStreamThatChanges) {
  OutlierScore score;
  const Random random(1, 3);
  for (uint64_t i = 0; i < 2000; ++i) score.next(random.uniform(i));
  for (uint64_t i = 0; i < 5000; ++i) score.next(10 + random.uniform(i));
  EXPECT_LT(std::abs(score.next(10.5).value()), 1);
}

TEST(OutlierScore, NothingStandsOutAmongEquals) {
  OutlierScore score;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(score.next(3).value_or(0), 0);
}

TEST(ScoreState, ComesBackAndIsRefusedWhereItIsDamagedOrAnothers) {
  const TemporaryFolder folder;
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  const std::string path = folder / "state", identity(64, 'a');
  EXPECT_FALSE(load_score_state(path, model, identity));
  ScoreState state;
  state.point = beginning_of_text(model);
  state.point.earlier = 7;
  state.waiting = std::string("\0\xff", 2);
  state.begun = true;
  state.line = {3, 4, 5.25, "text"};
  state.outliers.count = 9;
  state.outliers.mean = 0.1;
  save_score_state(path, state, identity);
  // It holds text of what is scored, which others may not read.
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const auto loaded = load_score_state(path, model, identity);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->point, state.point);
  EXPECT_EQ(loaded->waiting, state.waiting);
  EXPECT_EQ(loaded->line.text, "text");
  EXPECT_EQ(loaded->line.bits, 5.25);
  EXPECT_EQ(loaded->outliers.mean, 0.1);
  EXPECT_THROW(load_score_state(path, model, std::string(64, 'b')), Error);
  const std::string bytes = read_file(path);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    write_file(path, damaged);
    EXPECT_THROW(load_score_state(path, model, identity), Error) << i;
    write_file(path, bytes.substr(0, i));
    EXPECT_THROW(load_score_state(path, model, identity), Error) << i;
  }
}

}  // namespace
}  // namespace harmonic
