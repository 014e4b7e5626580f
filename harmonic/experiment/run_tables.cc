#include "harmonic/experiment/run_tables.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/table_cells.h"

namespace harmonic {
using namespace table_cells;
namespace {

// The evaluation that stands for a run where there is room for one: at its own length, else the longest.
const LengthResults* main_result(const RunResults& run) {
  const LengthResults* best = nullptr;
  for (const LengthResults& result : run.lengths) {
    const auto rank = [&](const LengthResults& r) {
      return std::tuple(r.length == run.trained_length(), r.state == "cold", r.length);
    };
    if (!best || rank(result) > rank(*best)) best = &result;
  }
  return best;
}

void flatten(const Value& value, const std::string& prefix, std::map<std::string, std::string>& into) {
  for (const auto& [key, child] : *value.table()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (child.table()) {
      flatten(child, name, into);
    } else {
      into[name] = inline_text(child);
    }
  }
}

}  // namespace

ReportTable certificate_table(const ExperimentResults& experiment) {
  ReportTable table{"certificates",
                    "Certificates of causality",
                    "A model that failed looks at the future; its figures stand in no mean.",
                    {{"variant", false}, {"passed"}, {"failed"}, {"not told"}},
                    {}};
  for (const std::string& series : experiment.series()) {
    int64_t passed = 0, failed = 0, missing = 0;
    for (const RunResults& run : experiment.runs) {
      if (!run.planned || run.series() != series || run.status != RunResults::Status::finished) continue;
      ++(run.certificate == "passed" ? passed : run.certificate == "failed" ? failed : missing);
    }
    if (passed + failed == 0) continue;
    table.rows.push_back({plain(series), plain(grouped_text(passed)), plain(grouped_text(failed)),
                          plain(grouped_text(missing))});
  }
  return table;
}

ReportTable left_out_table(const ExperimentResults& experiment) {
  ReportTable table{"left-out",
                    "Runs left out",
                    "Of every mean and every comparison.",
                    {{"run", false}, {"why", false}},
                    {}};
  if (experiment.plain) return table;
  for (const RunResults& run : experiment.runs)
    if (run.kind == RunResults::Kind::run && !run.counts())
      table.rows.push_back({plain(run.id), plain(run.why_not())});
  return table;
}

ReportTable run_table(const ExperimentResults& experiment) {
  ReportTable table{"runs",
                    "Every run",
                    "Held-out bits per byte at the run's own length; of a run without results, the last on "
                    "the way. Rate: what the "
                    "base learning rate was multiplied by.",
                    {{"run", false},
                     {"kind", false},
                     {"status", false},
                     {"certificate", false},
                     {"rate"},
                     {"bits per byte"},
                     {"tokens"},
                     {"steps"},
                     {"tokens/s"},
                     {"peak memory"},
                     {"time"},
                     {"computed on", false}},
                    {}};
  for (const RunResults& run : experiment.runs) {
    const LengthResults* result = main_result(run);
    const std::string rate = run.axis("lr_factor");
    const double last = run.validations.empty() ? std::nan("") : run.validations.back().bits_per_byte;
    const std::string why_not = run.why_not();
    const char* status = run.status == RunResults::Status::finished   ? "finished"
                         : run.status == RunResults::Status::diverged ? "diverged"
                         : experiment.plain                           ? kNone
                                                                      : why_not.c_str();
    table.rows.push_back(
        {plain(run.id), plain(run.kind == RunResults::Kind::run ? "run" : "tuning"),
         plain(run.planned ? status : why_not), plain(run.certificate.empty() ? kNone : run.certificate),
         plain(rate.empty() ? kNone : "\u00d7 " + rate), fixed(result ? result->bits_per_byte : last, 4),
         told(static_cast<double>(run.train_tokens), count_text), grouped(static_cast<double>(run.steps)),
         told(run.tokens_per_second, count_text),
         told(static_cast<double>(run.peak_memory_bytes), bytes_text), told(run.seconds, seconds_text),
         plain(run.computed_on.empty() ? kNone : run.computed_on)});
  }
  return table;
}

ReportTable settings_table(const ExperimentResults& experiment) {
  ReportTable table{
      "settings",
      "Settings that differ",
      "Between the runs of the comparison; all others are the same in each. Where the runs of a variant "
      "differ, all values.",
      {{"setting", false}},
      {}};
  const std::vector<std::string> series = experiment.series();
  std::vector<std::map<std::string, std::set<std::string>>> values(series.size());
  std::map<std::string, std::set<std::string>> all;
  size_t runs = 0;
  std::map<std::string, size_t> told_in;
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run || !experiment.is_placed(run) || !run.settings.table()) continue;
    std::map<std::string, std::string> flat;
    flatten(run.settings, "", flat);
    const size_t i =
        static_cast<size_t>(std::find(series.begin(), series.end(), run.series()) - series.begin());
    ++runs;
    for (const auto& [key, text] : flat) {
      values[i][key].insert(text);
      all[key].insert(text);
      ++told_in[key];
    }
  }
  for (const std::string& name : series) table.columns.push_back({name, false});
  for (const auto& [key, texts] : all) {
    if (texts.size() < 2 && told_in[key] == runs) continue;
    Row row = {plain(key)};
    for (const auto& of_series : values) {
      std::string text;
      if (const auto found = of_series.find(key); found != of_series.end()) {
        std::vector<std::string> sorted(found->second.begin(), found->second.end());
        std::sort(sorted.begin(), sorted.end(), group_less);
        for (const std::string& one : sorted) text += (text.empty() ? "" : "; ") + one;
      }
      row.push_back(plain(text.empty() ? kNone : text));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace harmonic
