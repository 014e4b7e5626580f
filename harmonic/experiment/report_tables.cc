#include "harmonic/experiment/report_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/paper_figures.h"
#include "harmonic/experiment/run_tables.h"
#include "harmonic/experiment/table_cells.h"

namespace harmonic {
using namespace table_cells;
namespace {

constexpr const char* kMinusSign = "\u2212";

// The runs that stand for their series.
std::vector<const RunResults*> counting_runs(const ExperimentResults& experiment) {
  std::vector<const RunResults*> runs;
  for (const RunResults& run : experiment.runs)
    if (run.kind == RunResults::Kind::run && run.counts()) runs.push_back(&run);
  return runs;
}

bool has_carried(const std::vector<Measured>& measurements) {
  return std::any_of(measurements.begin(), measurements.end(),
                     [](const Measured& m) { return m.place.state == "carry"; });
}

std::string state_text(const Place& place) { return place.state == "carry" ? "carried" : "cold"; }

// Bits per byte and per token of the places given, a row for each series.
ReportTable evaluations(const ExperimentResults& experiment, const std::vector<Measured>& by_byte,
                        bool main_places) {
  ReportTable table{"results",
                    "Bits per byte and per token",
                    "Held-out text; mean over seeds, \u00b1 half of the 95 % interval of the mean (Student's "
                    "t), sd over seeds.",
                    {{"trained at"},
                     {"read at"},
                     {"state", false},
                     {"variant", false},
                     {"seeds"},
                     {"bits per byte"},
                     {"\u00b1 95 %"},
                     {"sd"},
                     {"bits per token"}},
                    {}};
  if (!main_places) {
    table.id = "evaluations";
    table.title = "Other lengths and states";
  }
  const std::vector<Measured> by_token = measured(experiment, Figure::bits_per_token);
  for (const Measured& entry : by_byte) {
    const Summary summary = entry.summary();
    const auto same = std::find_if(by_token.begin(), by_token.end(), [&](const Measured& other) {
      return other.series == entry.series && other.place == entry.place;
    });
    table.rows.push_back({length_cell(entry.place.trained), length_cell(entry.place.length),
                          plain(state_text(entry.place)), plain(entry.series),
                          plain(fmt::format("{}", summary.count)), fixed(summary.mean, 4),
                          fixed(summary.half_width, 4), fixed(summary.sd, 4),
                          fixed(same == by_token.end() ? std::nan("") : same->summary().mean, 4)});
  }
  return table;
}

ReportTable paired(const std::vector<Comparison>& comparisons, Figure figure, std::string id,
                   std::string_view what = "Paired differences") {
  ReportTable table{std::move(id),
                    fmt::format("{}, {}", what, figure_name(figure)),
                    fmt::format("First less second at the same seed; {} is better. The intervals are of one "
                                "place each, not of all together. p: two-sided sign test.",
                                lower_is_better(figure) ? "lower" : "higher"),
                    {{"pair", false},
                     {"at", false},
                     {"seeds"},
                     {"difference"},
                     {"95 % from"},
                     {"to"},
                     {"sd"},
                     {"first is"},
                     {"sign test p"}},
                    {}};
  for (const Comparison& c : comparisons) {
    const Summary& d = c.paired.difference;
    table.rows.push_back({plain(fmt::format("{} {} {}", c.first, kMinusSign, c.second)),
                          plain(c.place.text()), plain(fmt::format("{}", d.count)), difference(d.mean, 4),
                          difference(d.low(), 4), difference(d.high(), 4), fixed(d.sd, 4),
                          plain(better_text(c, figure)),
                          exact(fmt::format("{:.3g}", c.paired.sign_test_p), c.paired.sign_test_p)});
  }
  return table;
}

ReportTable cost(const ExperimentResults& experiment) {
  ReportTable table{
      "cost",
      "Size, work, speed and memory",
      "Weights and multiply-adds of a token, forward; embeddings and head apart from the core. Speed and "
      "memory of training: means over the runs, where all of them were computed on one machine.",
      {{"trained at"},
       {"variant", false},
       {"core weights"},
       {"embedding weights"},
       {"core multiply-adds"},
       {"head multiply-adds"},
       {"state"},
       {"tokens/s"},
       {"peak memory"},
       {"training time"}},
      {}};
  for (const int64_t length : [&] {
         std::set<int64_t> lengths;
         for (const RunResults* run : counting_runs(experiment)) lengths.insert(run->trained_length());
         return lengths;
       }()) {
    for (const std::string& series : experiment.series()) {
      const RunResults* first = nullptr;
      double speed = 0, memory = 0, seconds = 0, count = 0;
      bool one_machine = true;
      for (const RunResults* run : counting_runs(experiment)) {
        if (run->series() != series || run->trained_length() != length) continue;
        if (!first) first = run;
        one_machine = one_machine && run->computed_on == first->computed_on;
        speed += run->tokens_per_second;
        memory += static_cast<double>(run->peak_memory_bytes);
        seconds += run->seconds;
        ++count;
      }
      if (!first) continue;
      const double means = one_machine ? 1 / count : 0;  // 0 is not told
      table.rows.push_back(
          {length_cell(length), plain(series), grouped(static_cast<double>(first->core_parameters)),
           grouped(static_cast<double>(first->embedding_parameters)), grouped(first->multiply_adds),
           grouped(first->head_multiply_adds), told(static_cast<double>(first->state_bytes), bytes_text),
           told(speed * means, count_text), told(memory * means, bytes_text),
           told(seconds * means, seconds_text)});
    }
  }
  return table;
}

ReportTable task_table(const ExperimentResults& experiment) {
  ReportTable table{
      "tasks",
      "Tasks",
      "Accuracy: mean over seeds, \u00b1 half of the 95 % interval. Chance: what a guess among the values "
      "that were told would have.",
      {{"task", false},
       {"group"},
       {"trained at"},
       {"variant", false},
       {"seeds"},
       {"accuracy"},
       {"\u00b1 95 %"},
       {"chance"},
       {"examples"},
       {"bits of the answer"}},
      {}};
  for (const Measured& entry : measured(experiment, Figure::accuracy)) {
    const Summary s = entry.summary();
    const auto percent = [](double share) {
      return std::isfinite(share) ? exact(percent_text(share), share) : plain(kNone);
    };
    double bits = 0, runs = 0;
    const TaskResults* any = nullptr;
    for (const RunResults* run : counting_runs(experiment))
      for (const TaskResults& task : run->tasks) {
        if (run->series() != entry.series || task.task != entry.place.task ||
            task.group != entry.place.group ||
            (entry.place.trained != 0 && run->trained_length() != entry.place.trained))
          continue;
        any = &task;
        bits += task.bits;
        ++runs;
      }
    table.rows.push_back({plain(entry.place.task), plain(entry.place.group), length_cell(entry.place.trained),
                          plain(entry.series), plain(fmt::format("{}", s.count)), percent(s.mean),
                          percent(s.half_width), percent(any->chance),
                          told(static_cast<double>(any->examples), count_text), fixed(bits / runs, 3)});
  }
  return table;
}

ReportTable tuning(const ExperimentResults& experiment) {
  ReportTable table{"tuning",
                    "Learning rates tried",
                    "Held-out bits per byte of the tuning runs, means over their seeds; factors of each "
                    "variant's base rate. The last column is what the runs above were trained with.",
                    {{"trained at"}, {"variant", false}},
                    {}};
  const std::vector<TuningGrid> grids = tuning_grids(experiment);
  std::vector<std::string> factors;
  for (const TuningGrid& grid : grids) {
    for (const TuningGrid::Tried& tried : grid.tried)
      if (std::find(factors.begin(), factors.end(), tried.factor) == factors.end())
        factors.push_back(tried.factor);
  }
  std::sort(factors.begin(), factors.end(), group_less);
  for (const std::string& factor : factors) table.columns.push_back({"\u00d7 " + factor});
  table.columns.push_back({"chosen"});
  for (const TuningGrid& grid : grids) {
    Row row = {length_cell(grid.trained), plain(grid.series)};
    for (const std::string& factor : factors) {
      const auto tried = std::find_if(grid.tried.begin(), grid.tried.end(),
                                      [&](const TuningGrid::Tried& t) { return t.factor == factor; });
      row.push_back(tried == grid.tried.end() ? plain(kNone)
                    : tried->diverged         ? plain("diverged")
                                              : fixed(tried->bits_per_byte.mean, 4));
    }
    std::string chosen;
    for (const std::string& factor : grid.chosen) chosen += (chosen.empty() ? "\u00d7 " : ", ") + factor;
    row.push_back(plain(chosen.empty() ? kNone : chosen));
    table.rows.push_back(std::move(row));
  }
  return table;
}

ReportTable by_context(const ExperimentResults& experiment) {
  ReportTable table{"by-context",
                    "Loss by context",
                    "Bits per token by the tokens that the model had seen before; means over seeds.",
                    {{"trained at"},
                     {"read at"},
                     {"variant", false},
                     {"from token"},
                     {"to"},
                     {"seeds"},
                     {"bits per token"}},
                    {}};
  for (const LossProfile& group : losses_by_context(experiment)) {
    for (size_t i = 0; i < group.bins.size(); ++i) {
      const auto& bin = group.bins[i];
      table.rows.push_back({length_cell(group.place.trained), length_cell(group.place.length),
                            plain(group.series), plain(grouped_text(bin.from)), plain(grouped_text(bin.to)),
                            plain(grouped_text(bin.bits.count)), fixed(bin.bits.mean, 4)});
    }
  }
  return table;
}

ReportTable by_phase(const ExperimentResults& experiment) {
  ReportTable table{"by-phase",
                    "Loss by phase",
                    "Bits per token at t mod the number of phases; means over seeds.",
                    {{"trained at"},
                     {"read at"},
                     {"variant", false},
                     {"phase"},
                     {"seeds"},
                     {"bits per token"},
                     {"less its mean"},
                     {"± 95 %"}},
                    {}};
  for (const LossProfile& group : losses_by_phase(experiment)) {
    for (const auto& bin : group.bins)
      table.rows.push_back({length_cell(group.place.trained), length_cell(group.place.length),
                            plain(group.series), plain(fmt::format("{}", bin.from)),
                            plain(grouped_text(bin.bits.count)), fixed(bin.bits.mean, 4),
                            difference(bin.above_mean.mean, 4), fixed(bin.above_mean.half_width, 4)});
  }
  return table;
}

// Those of `all` at places where none of `main` is.
std::vector<Measured> elsewhere(const std::vector<Measured>& all, const std::vector<Measured>& main) {
  std::vector<Measured> others;
  for (const Measured& entry : all) {
    if (std::none_of(main.begin(), main.end(), [&](const Measured& m) { return m.place == entry.place; }))
      others.push_back(entry);
  }
  return others;
}

// "length" twice says little where every figure is of its own length, and "cold" where all are.
void drop_column(ReportTable& table, const std::string& name) {
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].name != name) continue;
    const auto at = static_cast<std::ptrdiff_t>(i);
    table.columns.erase(table.columns.begin() + at);
    for (Row& row : table.rows) row.erase(row.begin() + at);
    return;
  }
}
void drop_if_empty(ReportTable& table, const std::string& name) {
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].name == name && std::all_of(table.rows.begin(), table.rows.end(),
                                                     [&](const Row& row) { return row[i].text == kNone; }))
      return drop_column(table, name);
  }
}

}  // namespace

std::vector<ReportTable> report_tables(const ExperimentResults& experiment) {
  std::vector<ReportTable> tables;
  const auto add = [&](ReportTable table) {
    if (!table.rows.empty()) tables.push_back(std::move(table));
  };
  const std::vector<Measured> all = measured(experiment, Figure::bits_per_byte);
  const std::vector<Measured> main = main_measured(experiment, Figure::bits_per_byte);
  const std::vector<Measured> others = elsewhere(all, main);
  ReportTable results = evaluations(experiment, main, true);
  if (std::all_of(main.begin(), main.end(), [](const Measured& m) { return m.place.at_own_length(); })) {
    drop_column(results, "trained at");
    for (ReportTable::Column& column : results.columns)
      if (column.name == "read at") column.name = "length";
  }
  if (!has_carried(main)) drop_column(results, "state");
  const Figure figure = reference_figure(experiment);
  const Figure bits = figure == Figure::accuracy ? Figure::bits_per_byte : figure;
  ReportTable costs = cost(experiment);
  for (const char* name : {"trained at", "core weights", "embedding weights", "core multiply-adds",
                           "head multiply-adds", "state", "tokens/s", "peak memory", "training time"})
    drop_if_empty(costs, name);
  if (costs.columns.back().name == "variant") costs.rows.clear();  // nothing is told
  ReportTable tasks = task_table(experiment);
  for (const char* name : {"trained at", "chance", "examples", "bits of the answer"})
    drop_if_empty(tasks, name);
  ReportTable tried = tuning(experiment);
  drop_if_empty(tried, "trained at");
  add(std::move(results));
  const std::vector<Measured> main_bits = main_measured(experiment, bits);
  add(paired(comparisons(experiment, main_bits), bits, "paired"));
  add(paired(carried_against_cold(experiment, bits), bits, "paired-states",
             "State carried against cold, the same weights"));
  add(std::move(costs));
  add(std::move(tasks));
  add(paired(comparisons(experiment, measured(experiment, Figure::accuracy)), Figure::accuracy,
             "paired-tasks"));
  add(evaluations(experiment, others, false));
  add(paired(comparisons(experiment, elsewhere(measured(experiment, bits), main_bits)), bits,
             "paired-evaluations"));
  add(std::move(tried));
  add(certificate_table(experiment));
  add(left_out_table(experiment));
  add(by_context(experiment));
  add(by_phase(experiment));
  add(settings_table(experiment));
  ReportTable runs = run_table(experiment);
  for (const char* name : {"rate", "computed on"}) drop_if_empty(runs, name);
  add(std::move(runs));
  for (ReportTable& table : paper_tables(experiment.name)) add(std::move(table));
  return tables;
}

const ReportTable* find_table(const std::vector<ReportTable>& tables, const std::string& id) {
  for (const ReportTable& table : tables)
    if (table.id == id) return &table;
  return nullptr;
}

}  // namespace harmonic
