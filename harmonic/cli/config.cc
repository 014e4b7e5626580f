// harmonic config: the settings that a run would have, with every default, as a TOML file to start from.
#include "harmonic/cli/command.h"

namespace harmonic {
namespace {

class ConfigCommand : public Command {
 public:
  void declare(Options& options) override {
    options.add("--config", &config_, "settings of a run").placeholder("TOML");
    options.add("--json", &json_, "the model's settings as its config.json");
    options.add_settings(&overrides_);
  }

  int run(const CommandContext&) override {
    const RunConfig config = load_run_config(config_, overrides_);
    write_output(json_ ? config.model.to_json() : config.to_toml());
    return 0;
  }

 private:
  std::string config_;
  bool json_ = false;
  std::vector<Override> overrides_;
};

const Registered<ConfigCommand> registered("config",
                                           "print the settings that a run would have, defaults included");

}  // namespace
}  // namespace harmonic
