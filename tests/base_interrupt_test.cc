#include "harmonic/base/interrupt.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace harmonic {
namespace {

// Runs `body` in a child, since handlers and the flag are the process's, and returns its wait status.
int in_child(const auto& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    watch_for_interrupts();
    body();
    ::_exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(Interrupt, OneSignalRaisesTheFlagAndNothingElse) {
  for (const int signal_number : {SIGINT, SIGTERM}) {
    const int status = in_child([&] {
      if (interrupted()) ::_exit(1);
      ::raise(signal_number);
      if (!interrupted()) ::_exit(2);
      try {
        stop_if_interrupted();
        ::_exit(3);
      } catch (const Interrupted&) {
      }
    });
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
}

TEST(Interrupt, ASecondSigintEndsTheProgramAtOnce) {
  const int status = in_child([] {
    ::raise(SIGINT);
    ::raise(SIGINT);
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

}  // namespace
}  // namespace harmonic
