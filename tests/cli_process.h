// The built program as a child that is written to while it runs.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {

class HarmonicProcess {
 public:
  // `as_nobody`: without the superuser's right to read everything, should the test have it.
  explicit HarmonicProcess(const std::vector<std::string>& arguments, bool as_nobody = false) {
    ::signal(SIGPIPE, SIG_IGN);  // a child that has ended is seen by its status
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    std::vector<std::string> words = {HARMONIC_PROGRAM};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const std::string out = folder_ / "out", err = folder_ / "err";
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(ends[0], 0);
      ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 1);
      ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 2);
      if (as_nobody && ::geteuid() == 0) {
        if (::seteuid(65534) != 0) ::_exit(126);
        ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // which it may not do then
      }
      ::execv(pointers[0], pointers.data());
      ::_exit(127);
    }
    ::close(ends[0]);
    input_ = ends[1];
  }
  ~HarmonicProcess() {
    close_input();
    if (child_ > 0) wait();
  }
  HarmonicProcess(const HarmonicProcess&) = delete;
  HarmonicProcess& operator=(const HarmonicProcess&) = delete;

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::write(input_, bytes.data(), bytes.size());
      if (done <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(done));
    }
  }
  void close_input() {
    if (input_ >= 0) ::close(input_);
    input_ = -1;
  }
  pid_t id() const { return child_; }
  void interrupt(int signal_number = SIGINT) const { ::kill(child_, signal_number); }

  std::string output_so_far() const {
    const std::string out = folder_ / "out";
    return std::filesystem::exists(out) ? read_file(out) : "";
  }
  std::string errors_so_far() const {
    const std::string err = folder_ / "err";
    return std::filesystem::exists(err) ? read_file(err) : "";
  }
  // Both wait, at most a minute: until the output holds this, and until it has more than so many bytes.
  bool shows(std::string_view text) const {
    return comes_to([&](const std::string& output) { return output.find(text) != std::string::npos; });
  }
  bool shows_more_than(size_t bytes) const {
    return comes_to([&](const std::string& output) { return output.size() > bytes; });
  }

  // The most memory it has ever had, in KB; 0 once it has ended.
  int64_t peak_memory() const {
    std::ifstream status("/proc/" + std::to_string(child_) + "/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6));
    return 0;
  }

  Outcome wait() {
    Outcome outcome;
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.out = output_so_far();
    outcome.err = read_file(folder_ / "err");
    return outcome;
  }

 private:
  template <typename Test>
  bool comes_to(Test passes) const {
    for (int i = 0; i < 6000; ++i) {
      if (passes(output_so_far())) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  TemporaryFolder folder_;
  pid_t child_ = -1;
  int input_ = -1;
};

// Runs the program with this standard input.
inline Outcome run_with_input(const std::vector<std::string>& arguments, std::string_view input) {
  HarmonicProcess process(arguments);
  process.write(input);
  process.close_input();
  return process.wait();
}

inline std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), end + 1));
  }
  return lines;
}

}  // namespace harmonic
