#include "harmonic/experiment/child_program.h"

#include <unistd.h>

#include <string_view>

#include "harmonic/base/files.h"

namespace harmonic {
namespace {

// The environment but for the settings in it, which would go over those of the plan, and the style of
// messages, which are read here; where texts that were prepared lie is none of them.
std::vector<std::string> variables_without_settings() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const bool setting = text.starts_with("HARMONIC_MODEL_") || text.starts_with("HARMONIC_DATA_") ||
                         text.starts_with("HARMONIC_TRAIN_") || text.starts_with("HARMONIC_QUIET") ||
                         text.starts_with("HARMONIC_LOG_JSON");
    if (!setting || text.starts_with("HARMONIC_DATA_CACHE")) kept.emplace_back(text);
  }
  return kept;
}

}  // namespace

ProcessOutcome run_child(const std::vector<std::string>& arguments, const std::filesystem::path& output,
                         const std::filesystem::path& log,
                         const std::function<void(const std::string&)>& line) {
  AppendFile kept(log);
  ProcessRun run;
  run.program = "/proc/self/exe";
  run.arguments = {"harmonic"};
  run.arguments.insert(run.arguments.end(), arguments.begin(), arguments.end());
  run.environment = variables_without_settings();
  run.environment->push_back(tied_to_this_process());
  run.output = output;
  run.error_bytes = [&](std::string_view bytes) { kept.append(bytes); };
  run.error_line = line;
  return run_process(run);
}

}  // namespace harmonic
