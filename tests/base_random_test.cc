#include "harmonic/base/random.h"

#include <gtest/gtest.h>

namespace harmonic {

// The published known-answer test of Philox4x32-10 for an all-ones counter and key (Random123, kat_vectors).
TEST(Random, FollowsThePublishedKnownAnswers) {
  const auto zeros = Random(0, 0).block(0);
  EXPECT_EQ(zeros, (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const auto ones = Random(~uint64_t{0}, ~uint64_t{0}).block(~uint64_t{0});
  EXPECT_EQ(ones, (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

}  // namespace harmonic
