// Runs the built program as a child, as a user would.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/base/files.h"

namespace harmonic {

struct Outcome {
  int status = -1;  // exit status; 128 + the signal that ended it
  std::string out, err;
};

// Runs HARMONIC_PROGRAM with these arguments. `environment` holds "NAME=VALUE" texts that are added to this
// process's own. `output` names a file that standard output goes to in place of Outcome::out; "-" closes it.
inline Outcome run_harmonic(const std::vector<std::string>& arguments,
                            const std::vector<std::string>& environment = {},
                            const std::string& output = "") {
  std::string folder = std::filesystem::temp_directory_path() / "harmonic_run_XXXXXX";
  if (!::mkdtemp(folder.data())) return {};
  const std::string out = output.empty() ? folder + "/out" : output, err = folder + "/err";
  std::vector<std::string> words = {HARMONIC_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 2);
    if (out == "-") {
      ::close(1);
    } else {
      ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 1);
    }
    for (const std::string& variable : environment) ::putenv(const_cast<char*>(variable.c_str()));
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
  }
  Outcome outcome;
  int status = 0;
  ::waitpid(child, &status, 0);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (output.empty()) outcome.out = read_file(out);
  outcome.err = read_file(err);
  std::filesystem::remove_all(folder);
  return outcome;
}

}  // namespace harmonic
