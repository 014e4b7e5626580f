// harmonic curves: several evaluations by context as one table and one chart.
#include <optional>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/cli/command.h"
#include "harmonic/eval/context_targets.h"
#include "harmonic/experiment/context_curves.h"

namespace harmonic {
namespace {

class Curves : public Command {
 public:
  void declare(Options& options) override {
    options
        .add("NAME=FILE", &curves_,
             "what to call a model, and what harmonic eval --contexts --json wrote of it")
        .placeholder("NAME=FILE...")
        .required();
    options.add("--svg", &svg_, "the chart").placeholder("FILE").not_empty();
    options.add("--most", &most_, "bits a token at which the chart ends; 0 shows all").at_least(0);
  }

  int run(const CommandContext&) override {
    std::vector<ContextCurve> curves;
    std::optional<ContextTargets> first;
    for (const std::string& text : curves_) {
      const size_t equals = text.find('=');
      if (equals == 0 || equals == std::string::npos || equals + 1 == text.size())
        fail_usage("\"{}\": expected NAME=FILE, as teacher=teacher.json", text);
      const std::string file = text.substr(equals + 1);
      curves.push_back(read_context_curve(text.substr(0, equals), file));
      const ContextTargets targets = read_context_targets(file);
      if (!first) first = targets;
      if (const std::string difference = targets.difference_from(*first); !difference.empty())
        fail(
            "{}: of other targets than {}: {}; evaluate both with the same --data, --targets and --groups "
            "and "
            "the same longest of --contexts",
            file, curves.front().name, difference);
    }
    print("{}", context_table(curves));
    if (!svg_.empty()) write_file(svg_, context_chart(curves, most_));
    return 0;
  }

 private:
  std::vector<std::string> curves_;
  std::string svg_;
  double most_ = 0;
};

const Registered<Curves> registered("curves", "evaluations by context as one table and chart");

}  // namespace
}  // namespace harmonic
