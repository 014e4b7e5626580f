// The cache of prompts' beginnings.
#include <gtest/gtest.h>

#include "harmonic/runtime/prefix_cache.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

TEST(PrefixCache, FindsTheLongestBeginningOfItsOwner) {
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  PrefixCache cache(1 << 20);
  const auto point = [&](int32_t pending) {
    TextPoint made = beginning_of_text(model);
    made.pending = pending;
    return made;
  };
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6};
  const std::span all(tokens);
  EXPECT_FALSE(cache.find("me", all));
  cache.insert("me", all.first(2), point(2));
  cache.insert("me", all.first(4), point(4));
  cache.insert("me", std::vector<int32_t>{1, 2, 3, 9}, point(9));
  const auto hit = cache.find("me", all);
  ASSERT_TRUE(hit);
  EXPECT_EQ(hit->tokens, 4);
  EXPECT_EQ(hit->point->pending, 4);
  EXPECT_EQ(cache.find("me", all.first(3))->tokens, 2);
  EXPECT_EQ(cache.find("me", std::vector<int32_t>{1, 2, 3, 9, 9})->point->pending, 9);
  EXPECT_FALSE(cache.find("me", std::vector<int32_t>{2, 2}));
  EXPECT_FALSE(cache.find("you", all));
}

TEST(PrefixCache, DropsWhatWasNotUsedForLongest) {
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  const int64_t one = model.state_layout().bytes() + 256;
  PrefixCache cache(3 * one);
  for (int32_t i = 0; i < 3; ++i) cache.insert("me", std::vector<int32_t>{i}, beginning_of_text(model));
  EXPECT_TRUE(cache.find("me", std::vector<int32_t>{0}));
  cache.insert("me", std::vector<int32_t>{3}, beginning_of_text(model));
  EXPECT_TRUE(cache.find("me", std::vector<int32_t>{0}));
  EXPECT_FALSE(cache.find("me", std::vector<int32_t>{1}));
  EXPECT_EQ(cache.entries(), 3);
  EXPECT_LE(cache.bytes(), 3 * one);
  PrefixCache small(one - 1);
  small.insert("me", std::vector<int32_t>{1}, beginning_of_text(model));
  EXPECT_EQ(small.entries(), 0);
}

}  // namespace
}  // namespace harmonic
