#include "harmonic/base/merge_values.h"

#include <gtest/gtest.h>

namespace harmonic {
namespace {

TEST(MergeValues, TablesAreMergedAndAllElseReplaced) {
  Value settings = parse_toml("title = 1\n[train]\nlr = 0.5\nbetas = [1, 2]\n[train.deep]\na = 1\n", "first");
  merge(settings,
        parse_toml("[train]\nbetas = [3]\nseed = 7\n[train.deep]\nb = 2\n[data]\nx = 4\n", "second"));
  EXPECT_EQ(to_toml(settings), to_toml(parse_toml("title = 1\n[train]\nlr = 0.5\nbetas = [3]\nseed = 7\n"
                                                  "[train.deep]\na = 1\nb = 2\n[data]\nx = 4\n",
                                                  "whole")));
  EXPECT_EQ(settings.find("train")->find("seed")->where.rfind("second", 0), 0u);
}

TEST(MergeValues, ATableTakesThePlaceOfWhatIsNone) {
  Value settings = parse_toml("train = 1\n", "first");
  merge(settings, parse_toml("[train]\nlr = 2\n", "second"));
  EXPECT_EQ(to_toml(settings), to_toml(parse_toml("[train]\nlr = 2\n", "whole")));
  merge(settings, parse_toml("train = 3\n", "third"));
  EXPECT_EQ(inline_text(*settings.find("train")), "3");
}

}  // namespace
}  // namespace harmonic
