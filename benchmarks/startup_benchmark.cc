// From the start of the program to its first word: `harmonic --help`, and `harmonic generate` to the first
// byte of text with models of growing size. Files are in the page cache. Usage: startup_benchmark [RUNS]
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "harmonic/bench/measurement.h"
#include "harmonic/eval/model_folder.h"

extern char** environ;

namespace harmonic {
namespace {

// Runs the program until its first byte of output; it is then left to end, which does not count.
double seconds_to_first_byte(const std::vector<std::string>& arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("no pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  pid_t child = 0;
  char byte = 0;
  bool got = false;
  const double seconds = seconds_of([&] {
    if (::posix_spawn(&child, pointers[0], &actions, nullptr, pointers.data(), environ) != 0)
      fail("{}: cannot be started", arguments[0]);
    ::close(ends[1]);
    got = ::read(ends[0], &byte, 1) == 1;
  });
  char rest[4096];
  while (::read(ends[0], rest, sizeof(rest)) > 0) {
  }
  ::close(ends[0]);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!got || status != 0) fail("{} {}: failed", arguments[0], arguments[1]);
  return seconds;
}

void report(const char* name, int64_t parameters, const std::vector<std::string>& arguments, int runs) {
  seconds_to_first_byte(arguments);
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) seconds.push_back(seconds_to_first_byte(arguments));
  const Times times = summary_of(std::move(seconds));
  std::printf("%-24s %12lld %10.2f %10.2f %10.2f\n", name, static_cast<long long>(parameters),
              times.median * 1e3, times.fastest * 1e3, times.slowest * 1e3);
}

// The paper's form with a vocabulary of bytes, its width giving the size.
int64_t make_model(const std::filesystem::path& folder, int64_t d_model) {
  ModelConfig config;
  config.d_model = d_model;
  Model model(config, cpu_backend(), false);
  model.parameters().initialise(1);
  save_model_folder(folder, model, *make_byte_tokenizer());
  return model.parameters().count();
}

void run(int runs) {
  const std::string program = HARMONIC_PROGRAM;
  std::printf("%-24s %12s %10s %10s %10s   (ms, %d runs)\n", "start", "parameters", "median", "fastest",
              "slowest", runs);
  report("--help", 0, {program, "--help"}, runs);
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("harmonic-startup-{}", ::getpid());
  for (const int64_t d_model : {64, 256, 512, 896}) {
    const int64_t parameters = make_model(folder, d_model);
    report("generate, first token", parameters,
           {program, "generate", "--model", folder.string(), "--prompt", "The", "--max-tokens", "1",
            "--temperature", "0", "--ignore-end"},
           runs);
    std::filesystem::remove_all(folder);
  }
}

}  // namespace
}  // namespace harmonic

int main(int argc, char** argv) {
  try {
    harmonic::run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 21);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "startup_benchmark: error: %s\n", error.what());
    return 1;
  }
}
