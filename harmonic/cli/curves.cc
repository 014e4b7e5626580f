// harmonic curves: several evaluations by context as one table and one chart.
#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
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
    for (const std::string& text : curves_) {
      const size_t equals = text.find('=');
      if (equals == 0 || equals == std::string::npos || equals + 1 == text.size())
        fail_usage("\"{}\": expected NAME=FILE, as teacher=teacher.json", text);
      curves.push_back(read_context_curve(text.substr(0, equals), text.substr(equals + 1)));
      if (curves.back().targets != curves.front().targets)
        warn("{} has {} targets and {} has {}: they are not of the same text", curves.front().name,
             curves.front().targets, curves.back().name, curves.back().targets);
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
