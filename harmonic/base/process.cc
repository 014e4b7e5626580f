#include "harmonic/base/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace {

constexpr int kPollMilliseconds = 200;
constexpr const char* kParent = "HARMONIC_PARENT";

// A descriptor that closes itself.
struct Descriptor {
  int number = -1;
  explicit Descriptor(int descriptor = -1) : number(descriptor) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  void close() {
    if (number >= 0) ::close(number);
    number = -1;
  }
};

// A child that does not outlive this object.
class Child {
 public:
  explicit Child(pid_t process) : process_(process) {}
  ~Child() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void ask_to_stop() const { ::kill(process_, SIGTERM); }
  // What waitpid() says of it.
  int wait() {
    int status = 0;
    while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) continue;
    process_ = -1;
    return status;
  }

 private:
  pid_t process_;
};

int open_for_writing(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  return descriptor;
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

pid_t start(const ProcessRun& run, int out, int error) {
  std::vector<std::string> words = run.arguments, variables;
  if (run.environment) variables = *run.environment;
  const std::vector<char*> argv = pointers_to(words), given = pointers_to(variables);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, error, STDERR_FILENO);
  pid_t child = -1;
  const int failure = ::posix_spawnp(&child, run.program.c_str(), &actions, nullptr, argv.data(),
                                     run.environment ? given.data() : environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failure != 0)
    fail("cannot start {}: {}{}{}", run.program, std::strerror(failure), run.cure.empty() ? "" : "; ",
         run.cure);
  return child;
}

}  // namespace

ProcessOutcome run_process(const ProcessRun& run) {
  using Clock = std::chrono::steady_clock;
  const Descriptor out(open_for_writing(run.output.empty() ? "/dev/null" : run.output));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe: {}", std::strerror(errno));
  const Descriptor from(ends[0]);
  Descriptor to(ends[1]);
  Child child(start(run, out.number, to.number));
  to.close();

  ProcessOutcome outcome;
  std::string pending;
  const auto finish_line = [&] {
    if (pending.empty()) return;
    outcome.last_error = pending;
    if (run.error_line) run.error_line(pending);
    pending.clear();
  };
  char buffer[4096];
  bool told = false;
  Clock::time_point last{};
  while (true) {
    if (interrupted() && !told) {
      child.ask_to_stop();
      told = true;
    }
    if (const auto now = Clock::now();
        run.meanwhile && now - last >= std::chrono::milliseconds(kPollMilliseconds)) {
      last = now;
      run.meanwhile();
    }
    pollfd ready = {from.number, POLLIN, 0};
    if (::poll(&ready, 1, kPollMilliseconds) <= 0) continue;
    const ssize_t count = ::read(from.number, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (run.error_bytes) run.error_bytes({buffer, static_cast<size_t>(count)});
    for (ssize_t i = 0; i < count; ++i) {
      if (buffer[i] == '\n') {
        finish_line();
      } else {
        pending += buffer[i];
      }
    }
  }
  finish_line();
  const int status = child.wait();
  stop_if_interrupted();
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

std::string tied_to_this_process() { return fmt::format("{}={}", kParent, ::getpid()); }

void end_with_parent() {
  const char* parent = std::getenv(kParent);
  if (!parent) return;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  // It may have ended before that.
  if (std::to_string(::getppid()) != parent) ::raise(SIGTERM);
}

}  // namespace harmonic
