#include "harmonic/ops/profile.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace harmonic {
namespace {

class ProfileOfOps : public testing::Test {
 protected:
  ProfileOfOps() : backend_(cpu_backend()) { backend_.observer = &profile_; }
  Tensor zeros(int64_t rows, int64_t cols) { return memory_.zeros(rows, cols, DType::f32); }
  void product(int64_t rows, int64_t inputs, int64_t outputs) {
    backend_(context_,
             Linear{zeros(rows, inputs), zeros(outputs, inputs), {}, {}, {}, false, zeros(rows, outputs)});
  }

  Arena memory_, scratch_;
  ThreadPool pool_{1};
  Context context_{pool_, scratch_};
  Profile profile_;
  Backend backend_;
};

TEST_F(ProfileOfOps, CountsCallsAndWorkOfEachShapeApart) {
  profile_.set_active(true);
  product(10, 30, 20);
  product(50, 30, 20);
  product(10, 20, 30);
  const std::vector<Profile::Entry> entries = profile_.entries();
  ASSERT_EQ(entries.size(), 2u);
  const Profile::Entry& wide = entries[entries[0].cost.inputs == 30 ? 0 : 1];
  EXPECT_EQ(wide.calls, 2);
  EXPECT_EQ(wide.cost.name, "linear");
  EXPECT_EQ(wide.cost.operations, 2.0 * 60 * 30 * 20);
  EXPECT_EQ(wide.cost.bytes, 4.0 * (60 * 30 + 60 * 20 + 2 * 30 * 20));
  EXPECT_GT(wide.seconds, 0);
  EXPECT_DOUBLE_EQ(profile_.seconds(), entries[0].seconds + entries[1].seconds);
  EXPECT_GE(entries[0].seconds, entries[1].seconds);
}

TEST_F(ProfileOfOps, CountsOnlyWhileItIsActive) {
  product(10, 30, 20);
  EXPECT_TRUE(profile_.entries().empty());
  profile_.set_active(true);
  product(10, 30, 20);
  profile_.set_active(false);
  product(10, 30, 20);
  EXPECT_EQ(profile_.entries().at(0).calls, 1);
  profile_.clear();
  EXPECT_TRUE(profile_.entries().empty());
}

// As lanes of a batch do: each thread with a context of its own, which has a part of the program's threads.
TEST_F(ProfileOfOps, CountsWhatThreadsRunBesideEachOtherByTheirShare) {
  profile_.set_active(true);
  context_.share = 0;
  product(10, 30, 20);
  EXPECT_EQ(profile_.seconds(), 0);
  const Tensor x = zeros(10, 30), weight = zeros(20, 30);
  ThreadPool threads(4);
  threads.parallel_for(4, [&](int64_t) {
    Arena memory, scratch;
    ThreadPool own(1);
    Context context{.pool = own, .scratch = scratch};
    context.share = 0.25;
    for (int i = 0; i < 100; ++i)
      backend_(context, Linear{x, weight, {}, {}, {}, false, memory.tensor(10, 20, DType::f32)});
  });
  const std::vector<Profile::Entry> entries = profile_.entries();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].calls, 401);
  EXPECT_EQ(entries[0].cost.operations, 401 * 2.0 * 10 * 30 * 20);
  EXPECT_GT(profile_.seconds(), 0);
}

// Every key that a query reads is a score: counted one by one here.
TEST_F(ProfileOfOps, AttentionIsChargedForTheKeysThatItReads) {
  for (const int64_t window : {0, 1, 7, 100}) {
    const std::vector<int64_t> offsets = {0, 5, 5, 40}, positions = {3, 0, 20};
    double keys = 0;
    for (size_t b = 0; b < positions.size(); ++b)
      for (int64_t t = 0; t < offsets[b + 1] - offsets[b]; ++t)
        keys +=
            static_cast<double>(window > 0 ? std::min(window, positions[b] + t + 1) : positions[b] + t + 1);
    const Tensor q = zeros(40, 24), k = zeros(40, 12);
    const Attention op = {q, k, k, {}, {offsets.data(), 3}, positions.data(), {4, 2, window}, q, {}};
    EXPECT_EQ(cost_of(op).operations, keys * 4 * (2 * 6 + 2 * 6)) << "window " << window;
  }
}

}  // namespace
}  // namespace harmonic
