// harmonic inspect: what a model is made of and what it costs.
#include <map>

#include <filesystem>

#include "harmonic/cli/command.h"
#include "harmonic/model/model.h"

namespace harmonic {
namespace {

// "1,234,567"
std::string grouped(int64_t number) {
  if (number < 1000) return fmt::format("{}", number);
  return fmt::format("{},{:03}", grouped(number / 1000), number % 1000);
}

class Inspect : public Command {
 public:
  void declare(Options& options) override {
    options.add("PATH", &path_, "a model folder, or the name of a preset").placeholder("PATH").required();
  }

  int run(const CommandContext&) override {
    const Model model(config(), cpu_backend(), false);
    show_parameters(model.parameters());
    show_state(model.state_layout());
    show_work(model);
    return 0;
  }

 private:
  ModelConfig config() const {
    if (!std::filesystem::exists(path_)) return model_preset(path_);
    return load_model_config(path_);
  }
  static void show_parameters(const Parameters& parameters) {
    int64_t vectors = 0;
    print("parameters\n");
    for (size_t i = 0; i < parameters.size(); ++i) {
      std::string shape;
      for (int64_t size : parameters[i].shape) shape += fmt::format("{}{}", shape.empty() ? "" : " x ", size);
      print("  {:<48}{:>16}{:>14}\n", parameters[i].name, shape, grouped(parameters[i].value.size()));
      if (parameters.role(i) == Role::vector) vectors += parameters[i].value.size();
    }
    const int64_t embeddings = parameters.count(Role::embedding);
    print("  {:<48}{:>16}{:>14}\n", "embeddings", "", grouped(embeddings));
    print("  {:<48}{:>16}{:>14}\n", "core, in matrices", "", grouped(parameters.count(Role::matrix)));
    print("  {:<48}{:>16}{:>14}\n", "core, in vectors", "", grouped(vectors));
    print("  {:<48}{:>16}{:>14}\n", "all", "", grouped(parameters.count()));
  }

  static void show_state(const StateLayout& layout) {
    print("state of a text, any length\n");
    for (const StateLayout::Named& named : layout.fields())
      print("  {:<48}{:>16}{:>14}\n", named.name, "", grouped(named.field.size * size_of(layout.dtype())));
    print("  {:<48}{:>16}{:>14}\n", "bytes, with the position", "", grouped(layout.bytes()));
  }

  static void show_work(const Model& model) {
    print("multiply-adds a token, forward\n");
    std::map<int64_t, double> by_stride;
    for (const Work::Part& part : model.work().parts) by_stride[part.stride] += part.multiply_adds;
    for (const auto& [stride, work] : by_stride)
      print("  {:<48}{:>16}{:>14}\n",
            fmt::format("at stride {}: {} a step", stride, grouped(static_cast<int64_t>(work))), "",
            grouped(static_cast<int64_t>(work / static_cast<double>(stride))));
    print("  {:<48}{:>16}{:>14}\n", "core", "", grouped(static_cast<int64_t>(model.work().per_token())));
    print("  {:<48}{:>16}{:>14}\n", "head", "", grouped(model.config().vocab_size * model.config().d_model));
  }

  std::string path_;
};

const Registered<Inspect> registered("inspect", "show a model's parameters, state and cost");

}  // namespace
}  // namespace harmonic
