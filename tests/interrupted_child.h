// What a process does that has been asked to stop.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harmonic/base/interrupt.h"

namespace harmonic {

// Whether `work` throws Interrupted. It runs in a child, since handlers and the flag are the process's, and
// asks for the stop itself: by raise(SIGTERM), at any point.
inline bool is_interrupted(const auto& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    watch_for_interrupts();
    try {
      work();
    } catch (const Interrupted&) {
      ::_exit(0);
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status == 0;
}

}  // namespace harmonic
