// The processors that a process's control groups leave it.
#include "harmonic/base/processors.h"

#include <gtest/gtest.h>

#include "data_fixture.h"

namespace harmonic {
namespace {

class Processors : public DataTest {
 protected:
  // A hierarchy with the group a/b, and the quotas of the root, of a and of a/b.
  int of_quotas(const std::string& root, const std::string& a, const std::string& b) {
    file("cpu.max", root);
    file("a/cpu.max", a);
    file("a/b/cpu.max", b);
    return processors_of_quota("1:name=old:/elsewhere\n0::/a/b\n", path(""));
  }
};

TEST_F(Processors, AreAtLeastOne) { EXPECT_GE(available_processors(), 1); }

TEST_F(Processors, AQuotaIsRoundedUp) {
  EXPECT_EQ(of_quotas("max 100000\n", "max 100000\n", "150000 100000\n"), 2);
  EXPECT_EQ(of_quotas("max 100000\n", "max 100000\n", "50000 100000\n"), 1);
}

TEST_F(Processors, TheSmallestQuotaOfTheGroupsAboveCounts) {
  EXPECT_EQ(of_quotas("max 100000\n", "200000 100000\n", "800000 100000\n"), 2);
  EXPECT_EQ(of_quotas("100000 100000\n", "200000 100000\n", "max 100000\n"), 1);
}

TEST_F(Processors, NoQuotaOrWhatIsNoneDoesNotBind) {
  EXPECT_EQ(of_quotas("max 100000\n", "max 100000\n", "max 100000\n"), 0);
  EXPECT_EQ(of_quotas("", "junk\n", "-1 100000\n"), 0);
  EXPECT_EQ(of_quotas("100000 0\n", "0 100000\n", "1e300 1\n"), 1000000);
  EXPECT_EQ(processors_of_quota("", path("")), 0);
  EXPECT_EQ(processors_of_quota("4:cpu:/a\n", path("")), 0);
  EXPECT_EQ(processors_of_quota("0::/\n", path("nowhere")), 0);
}

}  // namespace
}  // namespace harmonic
