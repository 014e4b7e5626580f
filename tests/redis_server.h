// A Redis server of a test's own: on a socket file in a folder that goes away, and without a disk.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "tests/model_folder_fixture.h"

namespace harmonic {

// Whether the distribution's redis-server is installed; tests that need it say so where it is not.
inline bool redis_is_installed() {
  static const bool found = std::system("command -v redis-server > /dev/null") == 0;
  return found;
}
inline constexpr const char* kNoRedis = "redis-server is not installed (scripts/setup.sh redis-server)";

class RedisServer {
 public:
  RedisServer() { start(); }
  ~RedisServer() { stop(); }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  std::string address() const { return "redis:" + socket_file(); }
  std::string socket_file() const { return folder_ / "redis"; }

  // With these settings besides, each as a flag and its value. Returns when it answers.
  void start(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"redis-server", "--port", "0",     "--unixsocket", socket_file(),
                                      "--save",       "",       "--dir", folder_ / "",   "--logfile",
                                      folder_ / "log"};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // it does not outlive the test, whatever becomes of that
      ::execvp(pointers[0], pointers.data());
      ::_exit(127);
    }
    for (int i = 0; i < 1000 && !answers(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  void stop() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
  }
  // It holds still, as one does whose machine is too busy, and goes on.
  void freeze() const { ::kill(child_, SIGSTOP); }
  void thaw() const { ::kill(child_, SIGCONT); }

 private:
  bool answers() const {
    const int file = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    socket_file().copy(name.sun_path, sizeof name.sun_path - 1);
    const bool connected = ::connect(file, reinterpret_cast<sockaddr*>(&name), sizeof name) == 0;
    ::close(file);
    return connected;
  }

  TemporaryFolder folder_;
  pid_t child_ = -1;
};

}  // namespace harmonic
