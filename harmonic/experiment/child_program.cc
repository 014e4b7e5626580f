#include "harmonic/experiment/child_program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace {

constexpr const char* kThisProgram = "/proc/self/exe";

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

int open_for_writing(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  return descriptor;
}

// The environment but for the settings in it, which would go over those of the plan; where texts that were
// prepared lie is none of them.
std::vector<char*> variables_without_settings() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const bool setting = text.starts_with("HARMONIC_MODEL_") || text.starts_with("HARMONIC_DATA_") ||
                         text.starts_with("HARMONIC_TRAIN_");
    if (!setting || text.starts_with("HARMONIC_DATA_CACHE")) kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

}  // namespace

ChildOutcome run_child(const std::vector<std::string>& arguments, const std::filesystem::path& output,
                       const std::filesystem::path& log,
                       const std::function<void(const std::string&)>& line) {
  const Descriptor out(open_for_writing(output.empty() ? "/dev/null" : output));
  AppendFile kept(log);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe: {}", std::strerror(errno));
  const Descriptor from(ends[0]);
  Descriptor to(ends[1]);

  std::vector<std::string> words = {"harmonic"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, out.number, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, to.number, STDERR_FILENO);
  std::vector<char*> variables = variables_without_settings();
  pid_t child = -1;
  const int error = ::posix_spawn(&child, kThisProgram, &actions, nullptr, argv.data(), variables.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) fail("cannot start {}: {}", kThisProgram, std::strerror(error));
  to.close();

  ChildOutcome outcome;
  std::string pending;
  char buffer[4096];
  bool told = false;
  const auto finish_line = [&] {
    if (pending.empty()) return;
    outcome.error = pending;
    line(pending);
    pending.clear();
  };
  while (true) {
    if (interrupted() && !told) {
      ::kill(child, SIGTERM);
      told = true;
    }
    pollfd ready = {from.number, POLLIN, 0};
    if (::poll(&ready, 1, 200) <= 0) continue;
    const ssize_t count = ::read(from.number, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    kept.append({buffer, static_cast<size_t>(count)});
    for (ssize_t i = 0; i < count; ++i) {
      if (buffer[i] == '\n') {
        finish_line();
      } else {
        pending += buffer[i];
      }
    }
  }
  finish_line();
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  stop_if_interrupted();
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

}  // namespace harmonic
