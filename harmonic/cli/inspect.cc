// harmonic inspect: what a model is made of and what it costs.
#include <fmt/ranges.h>

#include <filesystem>
#include <map>

#include "harmonic/base/error.h"
#include "harmonic/base/fields.h"
#include "harmonic/base/files.h"
#include "harmonic/cli/command.h"
#include "harmonic/model/model.h"
#include "harmonic/model/presets.h"

namespace harmonic {
namespace {

// "1,234,567"
std::string grouped(int64_t number) {
  if (number < 1000) return fmt::format("{}", number);
  return fmt::format("{},{:03}", grouped(number / 1000), number % 1000);
}

void row(std::string_view name, std::string_view number, std::string_view middle = "") {
  print("  {:<48}{:>16}{:>14}\n", name, middle, number);
}

class Inspect : public Command {
 public:
  void declare(Options& options) override {
    options.add("PATH", &path_, "a model folder, or the name of a preset").placeholder("PATH").required();
  }

  int run(const CommandContext&) override {
    const Preset* preset = is_there(path_) ? nullptr : find_preset(path_);
    const Model model(preset ? preset->config : config(), cpu_backend(), false);
    show_parameters(model.parameters());
    if (preset) {
      row("core, by the paper's account", grouped(preset->paper_core));
      row("all, by the paper's account", grouped(preset->paper_parameters));
    }
    show_state(model.state_layout(), model.config().longest_text());
    show_work(model);
    return 0;
  }

 private:
  ModelConfig config() const {
    if (!is_there(path_))
      fail("{}: no such model folder, and no preset ({}){}", path_, fmt::join(preset_names(), ", "),
           did_you_mean(path_, preset_names()));
    return load_model_config(path_);
  }

  static void show_parameters(const Parameters& parameters) {
    int64_t vectors = 0;
    print("parameters\n");
    for (size_t i = 0; i < parameters.size(); ++i) {
      std::string shape;
      for (int64_t size : parameters[i].shape) shape += fmt::format("{}{}", shape.empty() ? "" : " x ", size);
      row(parameters[i].name, grouped(parameters[i].value.size()), shape);
      if (parameters.role(i) == Role::vector) vectors += parameters[i].value.size();
    }
    const int64_t embeddings = parameters.count(Role::embedding);
    row("embeddings", grouped(embeddings));
    row("core, in matrices", grouped(parameters.count(Role::matrix)));
    row("core, in vectors", grouped(vectors));
    row("all", grouped(parameters.count()));
  }

  static void show_state(const StateLayout& layout, int64_t longest) {
    print("state of a text, {}\n", longest > 0 ? fmt::format("at most {} tokens", longest) : "any length");
    for (const StateLayout::Named& named : layout.fields())
      row(named.name, grouped(named.field.size * size_of(layout.dtype())));
    row("bytes, with the position", grouped(layout.bytes()));
  }

  static void show_work(const Model& model) {
    print("multiply-adds a token, forward\n");
    std::map<int64_t, double> by_stride;
    for (const Work::Part& part : model.work().parts) by_stride[part.stride] += part.multiply_adds;
    for (const auto& [stride, work] : by_stride)
      row(fmt::format("at stride {}: {} a step", stride, grouped(static_cast<int64_t>(work))),
          grouped(static_cast<int64_t>(work / static_cast<double>(stride))));
    row("core", grouped(static_cast<int64_t>(model.work().per_token())));
    row("head", grouped(model.config().vocab_size * model.config().d_model));
  }

  std::string path_;
};

const Registered<Inspect> registered("inspect", "show a model's parameters, state and cost");

}  // namespace
}  // namespace harmonic
