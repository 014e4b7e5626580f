#include "harmonic/base/interrupt.h"

#include <signal.h>

#include <atomic>

namespace harmonic {
namespace {

std::atomic<bool> stop_asked{false};
static_assert(std::atomic<bool>::is_always_lock_free, "the handler may only touch lock-free atomics");

void ask_to_stop(int signal_number) {
  // The default action from now on: whoever presses Ctrl-C again does not want to wait.
  if (signal_number == SIGINT) ::signal(SIGINT, SIG_DFL);
  stop_asked.store(true, std::memory_order_relaxed);
}

}  // namespace

void watch_for_interrupts() {
  struct sigaction action = {};
  action.sa_handler = ask_to_stop;
  sigemptyset(&action.sa_mask);
  // Without SA_RESTART: a read that waits for input returns, so that its loop can look at the flag.
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return stop_asked.load(std::memory_order_relaxed); }

void stop_if_interrupted() {
  if (interrupted()) throw Interrupted{};
}

}  // namespace harmonic
