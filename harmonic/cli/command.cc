#include "harmonic/cli/command.h"

#include <algorithm>

#include "harmonic/base/error.h"
#include "harmonic/base/log.h"
#include "harmonic/base/processors.h"

namespace harmonic {
namespace {

std::vector<CommandEntry>& registry() {
  static std::vector<CommandEntry> entries;
  return entries;
}

struct GlobalFlags {
  std::string device = "auto";
  int64_t threads = 0;
  bool quiet = false, log_json = false;

  void declare(Options& options) {
    options.add_global("--device", &device, "where to compute").one_of({"cpu", "cuda", "auto"});
    options.add_global("--threads", &threads, "threads; 0 is one for each processor").range(0, 4096);
    options.add_global("--quiet", &quiet, "no progress and no messages but warnings");
    options.add_global("--log-json", &log_json, "messages as lines of JSON");
  }

  CommandContext apply(const CommandEntry& entry, const Command& command) const {
    set_log_style(quiet ? LogStyle::quiet : log_json ? LogStyle::json : LogStyle::text);
    if (device == "cuda" && !command.uses_device())
      fail_usage("--device cuda: harmonic {} computes on the cpu only; use cpu or auto", entry.name);
    const int processors = available_processors();
    if (threads > processors)
      warn("--threads {}: this process has {} processor{}, which threads beyond them slow down", threads,
           processors, processors == 1 ? "" : "s");
    return {threads > 0 ? static_cast<int>(threads) : processors, command.uses_device() ? device : "cpu"};
  }
};

bool takes_value(const std::string& flag) { return flag == "--device" || flag == "--threads"; }
bool asks_help(const std::string& argument) { return argument == "--help" || argument == "-h"; }

// The commands whose name begins with `prefix` and a space; all when it is empty.
std::string list_of_commands(const std::string& prefix) {
  std::string text;
  for (const CommandEntry& entry : commands()) {
    if (prefix.empty() || entry.name.starts_with(prefix + ' '))
      text += fmt::format("  {:<20}{}\n", entry.name, entry.summary);
  }
  return text;
}

int show_overview() {
  print(
      "Harmonic trains, evaluates and runs hierarchical state-space language models.\n\n"
      "usage: harmonic COMMAND [options]\n\ncommands:\n{}\n"
      "harmonic COMMAND --help shows a command's options and their defaults; harmonic --version the "
      "version.\n"
      "Exit status: 0 done, 1 failed, 2 wrong usage, 3 diverged, 130 interrupted, 141 nobody reads the "
      "output.\n",
      list_of_commands(""));
  return 0;
}

const CommandEntry* find_command(const std::string& name) {
  const auto found = std::find_if(commands().begin(), commands().end(),
                                  [&](const CommandEntry& entry) { return entry.name == name; });
  return found == commands().end() ? nullptr : &*found;
}

[[noreturn]] void unknown_command(const std::string& name) {
  std::vector<std::string> names;
  for (const CommandEntry& entry : commands()) names.push_back(entry.name);
  fail_usage("unknown command \"{}\"{}; harmonic --help lists them", name, did_you_mean(name, names));
}

int run_command(const CommandEntry& entry, const std::vector<std::string>& arguments) {
  const std::unique_ptr<Command> command = entry.make();
  GlobalFlags global;
  Options options;
  command->declare(options);
  global.declare(options);
  // Only before "--": what follows it are values.
  const auto end = std::find(arguments.begin(), arguments.end(), "--");
  if (std::any_of(arguments.begin(), end, asks_help)) {
    write_output(options.help(entry.name, entry.summary));
    return 0;
  }
  try {
    options.parse(arguments);
  } catch (const Error& error) {
    fail_usage("{}; harmonic {} --help shows the options", error.what(), entry.name);
  }
  return command->run(global.apply(entry, *command));
}

}  // namespace

const std::vector<CommandEntry>& commands() { return registry(); }

void register_command(CommandEntry entry) {
  auto& entries = registry();
  const auto after = std::find_if(entries.begin(), entries.end(),
                                  [&](const CommandEntry& other) { return other.name > entry.name; });
  entries.insert(after, std::move(entry));
}

int run_program(std::vector<std::string> arguments) {
  // Flags of every command may stand before its name; they are moved behind it.
  size_t position = 0;
  while (position < arguments.size() && arguments[position].starts_with('-')) {
    if (asks_help(arguments[position])) return show_overview();
    if (arguments[position] == "--version") {
      print("harmonic {}\n", HARMONIC_VERSION);
      return 0;
    }
    position += takes_value(arguments[position]) ? 2 : 1;
  }
  if (position >= arguments.size()) {
    if (!arguments.empty()) fail_usage("no command given; harmonic --help lists them");
    show_overview();
    return 2;
  }
  const auto name_begins = arguments.begin() + static_cast<std::ptrdiff_t>(position);
  const std::vector<std::string> leading(arguments.begin(), name_begins);
  arguments.erase(arguments.begin(), name_begins);

  const std::string first = arguments[0], second = arguments.size() > 1 ? first + ' ' + arguments[1] : "";
  const CommandEntry* entry = find_command(second);
  const size_t words = entry ? 2 : 1;
  if (!entry) entry = find_command(first);
  if (!entry) {
    const std::string group = list_of_commands(first);
    if (group.empty()) unknown_command(first);
    const bool asked = std::any_of(arguments.begin(), arguments.end(), asks_help);
    if (!asked && !second.empty() && !arguments[1].starts_with('-')) unknown_command(second);
    if (!asked) fail_usage("{} needs one more word; harmonic {} --help lists them", first, first);
    print("usage: harmonic {} COMMAND [options]\n\ncommands:\n{}", first, group);
    return 0;
  }
  arguments.erase(arguments.begin(), arguments.begin() + static_cast<std::ptrdiff_t>(words));
  arguments.insert(arguments.begin(), leading.begin(), leading.end());
  return run_command(*entry, arguments);
}

}  // namespace harmonic
