// harmonic report: what experiments and training runs came to, as a page, in Markdown and as CSV.
#include "harmonic/experiment/report.h"

#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/experiment/report_text.h"

namespace harmonic {
namespace {

class Report : public Command {
 public:
  void declare(Options& options) override {
    options.add("DIR", &folders_, "folders of experiments and of training runs")
        .placeholder("DIR...")
        .required();
    options.add("--out", &out_, "the page").placeholder("FILE");
    options.add("--markdown", &markdown_, "the tables in Markdown too").placeholder("FILE");
    options.add("--csv", &csv_, "every figure of every run in one file NAME.csv; a folder: a file a table")
        .placeholder("PATH");
  }

  int run(const CommandContext&) override {
    check_outputs();
    const std::vector<ExperimentResults> experiments = read_results({folders_.begin(), folders_.end()});
    write(out_, report_page(experiments));
    if (!markdown_.empty()) write(markdown_, report_markdown(experiments));
    if (csv_.empty()) return 0;
    if (std::filesystem::path(csv_).extension() == ".csv") {
      write(csv_, report_csv(experiments));
      return 0;
    }
    make_folder(csv_);
    for (const auto& [name, content] : report_csv_files(experiments))
      write((std::filesystem::path(csv_) / name).string(), content);
    return 0;
  }

 private:
  // Two that are one file would leave what was written last.
  void check_outputs() const {
    const std::vector<std::pair<const char*, std::string>> outputs = {
        {"--out", out_}, {"--markdown", markdown_}, {"--csv", csv_}};
    const auto place = [](const std::string& path) {
      std::error_code error;
      const std::filesystem::path found = std::filesystem::weakly_canonical(path, error);
      return error ? std::filesystem::path(path).lexically_normal() : found;
    };
    for (size_t i = 0; i < outputs.size(); ++i)
      for (size_t j = i + 1; j < outputs.size(); ++j) {
        const std::string &first = outputs[i].second, &second = outputs[j].second;
        if (!first.empty() && !second.empty() && !first.starts_with("/dev/") && place(first) == place(second))
          fail_usage("{} and {} are the same file, {}; name two", outputs[i].first, outputs[j].first, second);
      }
  }

  static void write(const std::string& path, const std::string& content) {
    write_file(path, content);
    log("written: {}", path);
  }

  std::vector<std::string> folders_;
  std::string out_ = "report.html", markdown_, csv_;
};

const Registered<Report> registered("report", "what experiments and runs came to, as one HTML page");

}  // namespace
}  // namespace harmonic
