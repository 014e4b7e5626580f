#include "harmonic/base/process.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "tests/interrupted_child.h"

namespace harmonic {
namespace {

ProcessRun shell(const std::string& script) {
  ProcessRun run;
  run.program = "sh";
  run.arguments = {"sh", "-c", script};
  return run;
}

TEST(Process, GivesBackTheStatusAndEachLineOfStandardError) {
  ProcessRun run = shell("echo one >&2; echo >&2; printf two >&2; exit 7");
  std::string bytes;
  std::vector<std::string> lines;
  run.error_bytes = [&](std::string_view piece) { bytes += piece; };
  run.error_line = [&](const std::string& line) { lines.push_back(line); };
  const ProcessOutcome outcome = run_process(run);
  EXPECT_EQ(outcome.status, 7);
  EXPECT_EQ(outcome.last_error, "two");
  EXPECT_EQ(bytes, "one\n\ntwo");
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(run_process(shell("kill -KILL $$")).status, 128 + SIGKILL);
}

TEST(Process, HasNothingOnStandardInputAndItsOutputInTheFileNamed) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("harmonic-process-" + std::to_string(::getpid()));
  ProcessRun run = shell("cat; echo $WORD");
  run.output = file;
  run.environment = {"WORD=given", "PATH=/usr/bin:/bin"};
  EXPECT_EQ(run_process(run).status, 0);
  EXPECT_EQ(read_file(file), "given\n");
  std::filesystem::remove(file);
}

TEST(Process, AProgramThatIsMissingIsAnErrorWithItsCure) {
  ProcessRun run;
  run.program = run.arguments.emplace_back("no-such-program");
  run.cure = "install it";
  try {
    run_process(run);
    FAIL() << "it was started";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cannot start no-such-program: No such file"), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("; install it"), std::string::npos) << error.what();
  }
}

TEST(Process, ARequestToStopIsPassedOn) {
  EXPECT_TRUE(is_interrupted([] {
    ProcessRun run = shell("echo ready >&2; exec sleep 60");
    run.error_line = [](const std::string&) { ::raise(SIGTERM); };
    const auto begin = std::chrono::steady_clock::now();
    try {
      run_process(run);
    } catch (const Interrupted&) {
      if (std::chrono::steady_clock::now() - begin < std::chrono::seconds(30)) throw;
    }
  }));
}

TEST(Process, TheChildEndsWhenACallThrows) {
  ProcessRun run = shell("echo $$ >&2; exec sleep 60");
  pid_t child = 0;
  run.error_line = [&](const std::string& line) { child = std::stoi(line); };
  run.meanwhile = [&] {
    if (child > 0) throw Error("enough");
  };
  EXPECT_THROW(run_process(run), Error);
  EXPECT_NE(::kill(child, 0), 0);
}

}  // namespace
}  // namespace harmonic
