// cli: the program. One file a command; a command makes itself known by a static object, and main.cc never
// changes.
//
//   class Inspect : public Command {
//     void declare(Options& options) override { options.add("PATH", &path_, "model folder").required(); }
//     int run(const CommandContext& context) override { ...; return 0; }
//     std::string path_;
//   };
//   const Registered<Inspect> registered("inspect", "show a model's parameters, state and cost");
//
// Results go through output.h, messages through base/log.h; what goes wrong is thrown as an Error.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/cli/options.h"
#include "harmonic/cli/output.h"
#include "harmonic/ops/device_choice.h"

namespace harmonic {

// What the flags of every command came to.
struct CommandContext {
  int threads = 0;             // at least 1
  std::string device = "cpu";  // cpu, cuda or auto
  // What to compute with. Throws Error where the device is not there.
  const Backend& backend(std::string_view precision = "f32") const { return backend_for(device, precision); }
};

class Command {
 public:
  virtual ~Command() = default;
  virtual void declare(Options& options) = 0;
  // Whether it computes with the context's backend; otherwise on the cpu, and --device cuda is refused.
  virtual bool uses_device() const { return false; }
  // Called once, after the options were read. Returns the exit status: 0 done, 1 failed, 130 interrupted with
  // everything saved. May throw Error, Interrupted, OutputClosed.
  virtual int run(const CommandContext& context) = 0;
};

struct CommandEntry {
  std::string name;  // one word, or two: "tokenizer train"
  std::string summary;
  std::unique_ptr<Command> (*make)();
};

// All commands of the program, by name.
const std::vector<CommandEntry>& commands();
void register_command(CommandEntry entry);

template <typename T>
struct Registered {
  Registered(std::string name, std::string summary) {
    register_command({std::move(name), std::move(summary),
                      []() -> std::unique_ptr<Command> { return std::make_unique<T>(); }});
  }
};

// Runs the program with the arguments after its name: finds the command, reads its options, runs it. Returns
// the exit status; throws what the command throws.
int run_program(std::vector<std::string> arguments);

}  // namespace harmonic
