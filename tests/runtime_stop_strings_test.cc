#include "harmonic/runtime/stop_strings.h"

#include <gtest/gtest.h>

namespace harmonic {
namespace {

TEST(StopStrings, AreFoundHoweverTheBytesCome) {
  const std::string text = "one two\nthree aab aaab four";
  for (const std::vector<std::string>& stops :
       {std::vector<std::string>{"aaab"}, {"\nthr", "two\nthx"}, {"four", "our"}, {"zzz"}, {"o"}}) {
    std::string expected = text;
    bool found = false;
    size_t first = text.size();
    for (const std::string& stop : stops) first = std::min(first, text.find(stop));
    found = first < text.size();
    expected.resize(first);
    for (size_t size = 1; size <= text.size(); ++size) {
      StopStrings matcher(stops);
      std::string released;
      bool stopped = false;
      for (size_t at = 0; at < text.size() && !stopped; at += size)
        stopped = matcher.push(std::string_view(text).substr(at, size), released);
      if (!stopped) matcher.flush(released);
      EXPECT_EQ(released, expected) << size;
      EXPECT_EQ(stopped, found);
    }
  }
}

TEST(StopStrings, HoldBackNoMoreThanWhatMayBeginOne) {
  StopStrings matcher({"stop"});
  std::string released;
  matcher.push("abcst", released);
  EXPECT_EQ(released, "abc");
  matcher.push("ay", released);
  EXPECT_EQ(released, "abcstay");
}

}  // namespace
}  // namespace harmonic
