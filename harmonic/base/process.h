// Another program as a child of this one.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace harmonic {

struct ProcessRun {
  std::string program;                                  // a path, or a name that PATH is searched for
  std::vector<std::string> arguments;                   // the first is the name that the program goes by
  std::optional<std::vector<std::string>> environment;  // "NAME=VALUE"; none: as this program's
  std::filesystem::path output;                         // of standard output; empty: thrown away
  // Each may be empty. They run on the calling thread; when one throws, the child is ended first.
  std::function<void(std::string_view)> error_bytes;   // standard error as it comes
  std::function<void(const std::string&)> error_line;  // each of its lines that is not empty
  std::function<void()> meanwhile;                     // about five times a second
  std::string cure;                                    // what to do when it cannot be started, for that error
};

struct ProcessOutcome {
  int status = 0;          // as a shell has it: 128 and the signal that ended it
  std::string last_error;  // the last line on standard error
};

// Runs it to its end; nothing is on its standard input. A request to stop this program is passed on, and
// Interrupted thrown when the child has ended. Throws Error when it cannot be started.
ProcessOutcome run_process(const ProcessRun& run);

// A child whose environment has what tied_to_this_process() gives, and which calls end_with_parent() when it
// begins, is asked to stop (SIGTERM) as soon as this process has ended, killed or not.
std::string tied_to_this_process();
void end_with_parent();

}  // namespace harmonic
