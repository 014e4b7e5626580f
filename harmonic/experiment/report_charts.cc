#include "harmonic/experiment/report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/number_text.h"

namespace harmonic {
namespace {

using Unit = ChartAxis::Unit;

constexpr size_t kLongestUnderAPoint = 16;
constexpr const char* kIntervals = "Mean over seeds; bars are 95 % intervals of the mean.";

ChartAxis axis(std::string label, Unit unit = Unit::number, bool logarithmic = false) {
  ChartAxis result;
  result.label = std::move(label);
  result.unit = unit;
  result.logarithmic = logarithmic;
  return result;
}
ChartAxis length_axis(std::string label) { return axis(std::move(label), Unit::length, true); }

ChartAxis figure_axis(Figure figure) {
  if (figure == Figure::accuracy) return axis("accuracy", Unit::percent);
  return axis("held-out " + figure_name(figure));
}
std::string figure_text(Figure figure, double value) {
  return figure == Figure::accuracy ? percent_text(value) : fixed_text(value, 4);
}

// The colour of a series is its place among all of the experiment, the same in every chart.
size_t color_of(const ExperimentResults& experiment, const std::string& series) {
  const std::vector<std::string> all = experiment.series();
  return static_cast<size_t>(std::find(all.begin(), all.end(), series) - all.begin());
}

// The entry of this name, made at the end where there is none.
ChartSeries& series_named(Chart& chart, const std::string& name, size_t color) {
  for (ChartSeries& series : chart.series)
    if (series.name == name) return series;
  chart.series.emplace_back();
  chart.series.back().name = name;
  chart.series.back().color = color;
  return chart.series.back();
}

std::string tip_of(const std::string& series, const std::string& place, Figure figure, const Summary& s) {
  std::string tip = fmt::format("{}, {}: {}", series, place, figure_text(figure, s.mean));
  if (std::isfinite(s.half_width)) tip += fmt::format(" \u00b1 {}", figure_text(figure, s.half_width));
  return tip + fmt::format(", {} seed{}", s.count, s.count == 1 ? "" : "s");
}

void sort_points(Chart& chart) {
  for (ChartSeries& series : chart.series)
    std::stable_sort(series.points.begin(), series.points.end(),
                     [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
  std::stable_sort(chart.series.begin(), chart.series.end(),
                   [](const ChartSeries& a, const ChartSeries& b) { return a.color < b.color; });
}

std::set<Place> places_of(const std::vector<Measured>& measurements) {
  std::set<Place> places;
  for (const Measured& entry : measurements) places.insert(entry.place);
  return places;
}

std::string trained_at(int64_t length) {
  return length ? "trained at " + length_text(length) : std::string("all runs");
}

Chart against_length(const ExperimentResults& experiment, const std::vector<Measured>& main, Figure figure) {
  Chart chart;
  chart.title = fmt::format("Held-out {} against length", figure_name(figure));
  chart.note = "Mean over seeds; bars are 95 % intervals of each mean by itself.";
  chart.x = length_axis("tokens a text");
  chart.y = figure_axis(figure);
  for (const Measured& entry : main) {
    const Summary s = entry.summary();
    series_named(chart, entry.series, color_of(experiment, entry.series))
        .points.push_back({static_cast<double>(entry.place.length), s.mean, s.half_width,
                           tip_of(entry.series, entry.place.text(), figure, s)});
  }
  sort_points(chart);
  return chart;
}

// One place, several seeds: lines that run side by side show what pairing is worth.
Chart against_seed(const ExperimentResults& experiment, const std::vector<Measured>& main, Figure figure) {
  Chart chart;
  chart.title = fmt::format("Held-out {} by seed", figure_name(figure));
  chart.note = "What all variants share at a seed cancels in the paired difference.";
  chart.x = axis("seed", Unit::category);
  chart.y = figure_axis(figure);
  std::vector<std::string>& seeds = chart.x.categories;
  for (const Measured& entry : main) {
    for (const auto& [seed, value] : entry.by_seed)
      if (std::find(seeds.begin(), seeds.end(), seed) == seeds.end()) seeds.push_back(seed);
  }
  std::sort(seeds.begin(), seeds.end(), group_less);
  for (const Measured& entry : main) {
    ChartSeries& series = series_named(chart, entry.series, color_of(experiment, entry.series));
    for (const auto& [seed, value] : entry.by_seed)
      series.points.push_back(
          {static_cast<double>(std::find(seeds.begin(), seeds.end(), seed) - seeds.begin()), value,
           ChartAxis::kUnset,
           fmt::format("{}, seed {}: {}", entry.series, seed, figure_text(figure, value))});
  }
  sort_points(chart);
  return chart;
}

// first - second of every pair, in the colour of the second where all have one first.
Chart differences(const ExperimentResults& experiment, const std::vector<Measured>& main, Figure figure) {
  Chart chart;
  chart.title = fmt::format("Paired differences, {}", figure_name(figure));
  chart.note = fmt::format("Means over seeds in common, 95 % intervals. {} zero the first is better.",
                           lower_is_better(figure) ? "Below" : "Above");
  chart.reference = 0;
  const std::vector<Comparison> compared = comparisons(experiment, main);
  const bool one_first = std::all_of(compared.begin(), compared.end(),
                                     [&](const Comparison& c) { return c.first == compared.front().first; });
  const bool one_place = places_of(main).size() == 1;
  chart.y =
      axis(one_first && !compared.empty() ? compared.front().first + " less the other, " + figure_name(figure)
                                          : "first less second, " + figure_name(figure));
  chart.x = one_place ? axis("", Unit::category) : length_axis("tokens a text");
  const auto name_of = [&](const Comparison& c) {
    return one_first ? "less " + c.second : fmt::format("{} \u2212 {}", c.first, c.second);
  };
  const bool under_points =
      one_place && std::all_of(compared.begin(), compared.end(),
                               [&](const Comparison& c) { return name_of(c).size() <= kLongestUnderAPoint; });
  double low = 0, high = 0;  // zero is what a difference is read against
  size_t pairs = 0;
  for (const Comparison& c : compared) {
    const std::string name = name_of(c);
    const Summary& d = c.paired.difference;
    double x = static_cast<double>(c.place.length);
    if (one_place) {
      x = static_cast<double>(chart.x.categories.size());
      chart.x.categories.push_back(under_points ? name : "");
    }
    std::string tip =
        fmt::format("{} \u2212 {}, {}: {}", c.first, c.second, c.place.text(), signed_text(d.mean, 4));
    if (std::isfinite(d.half_width)) tip += fmt::format(" \u00b1 {}", fixed_text(d.half_width, 4));
    tip += ", " + better_text(c, figure);
    if (std::none_of(chart.series.begin(), chart.series.end(),
                     [&](const ChartSeries& s) { return s.name == name; }))
      ++pairs;
    series_named(chart, name, one_first ? color_of(experiment, c.second) : pairs - 1)
        .points.push_back({x, d.mean, d.half_width, std::move(tip)});
    const double error = std::isfinite(d.half_width) ? d.half_width : 0;
    low = std::min(low, d.mean - error);
    high = std::max(high, d.mean + error);
  }
  sort_points(chart);
  chart.named = !under_points;
  const double space = 0.08 * (high - low);
  chart.y.low = low - space;
  chart.y.high = high + space;
  return chart;
}

// What guessing has in a task, where all of its groups tell the same; else NaN.
double chance_of(const ExperimentResults& experiment, const std::string& task) {
  std::set<double> told;
  for (const RunResults& run : experiment.runs)
    for (const TaskResults& result : run.tasks)
      if (run.counts() && result.task == task) told.insert(std::isfinite(result.chance) ? result.chance : -1);
  return told.size() == 1 && *told.begin() >= 0 ? *told.begin() : std::nan("");
}

// A mean over the runs of a series, by length of training; `of_machine`: where all were computed on one.
Chart cost_chart(const ExperimentResults& experiment, std::string title, ChartAxis y, bool of_machine,
                 const std::function<double(const RunResults&)>& figure,
                 const std::function<std::string(double)>& text) {
  Chart chart;
  chart.title = std::move(title);
  chart.x = length_axis("tokens a text in training");
  chart.y = std::move(y);
  std::map<std::pair<size_t, int64_t>, std::vector<double>> all;
  std::map<std::pair<size_t, int64_t>, std::set<std::string>> machines;
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run || !run.counts() || run.trained_length() == 0 || figure(run) <= 0)
      continue;
    const std::pair key(color_of(experiment, run.series()), run.trained_length());
    all[key].push_back(figure(run));
    if (of_machine) machines[key].insert(run.computed_on);
  }
  std::set<std::string> every;
  for (const auto& [key, texts] : machines) every.insert(texts.begin(), texts.end());
  if (every.size() > 1) chart.note = "Not all on one machine, or with as many threads and runs at a time.";
  std::erase_if(all, [&](const auto& entry) { return machines[entry.first].size() > 1; });
  const std::vector<std::string> names = experiment.series();
  for (const auto& [key, figures] : all) {
    const double mean = summarize(figures).mean;
    series_named(chart, names[key.first], key.first)
        .points.push_back({static_cast<double>(key.second), mean, ChartAxis::kUnset,
                           fmt::format("{}, {}: {}", names[key.first], length_text(key.second), text(mean))});
  }
  std::set<int64_t> lengths;
  for (const auto& [key, figures] : all) lengths.insert(key.second);
  if (lengths.size() < 2) chart.series.clear();
  return chart;
}

// Loss along the runs of one length of training.
Chart curves(const ExperimentResults& experiment, int64_t length, ChartAxis x, bool held_out,
             const std::function<double(const CurvePoint&)>& of_point) {
  Chart chart;
  chart.x = std::move(x);
  chart.x.low = 0;
  chart.y = axis(held_out ? "held-out bits per byte" : "training bits per byte");
  double last = 0;
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run || !experiment.is_placed(run) || run.trained_length() != length)
      continue;
    ChartSeries series;
    series.name = run.series();
    series.color = color_of(experiment, run.series());
    series.markers = false;
    if (!experiment.plain && !run.counts()) {
      series.name += run.status == RunResults::Status::diverged ? ", diverged" : ", certificate failed";
      series.dashed = true;
    }
    std::vector<CurvePoint> points = run.curve;
    if (held_out) {
      points.clear();
      for (const ValidationMetrics& v : run.validations)
        points.push_back({static_cast<double>(v.tokens), v.seconds, v.bits_per_byte});
    }
    for (const CurvePoint& point : points) {
      series.points.push_back({of_point(point), point.bits_per_byte, ChartAxis::kUnset, ""});
      last = std::max(last, of_point(point));
    }
    chart.series.push_back(std::move(series));
  }
  // The first falls from chance would leave no room for what differs.
  double top = 0;
  for (const ChartSeries& series : chart.series) {
    const auto early = std::find_if(series.points.begin(), series.points.end(),
                                    [&](const ChartPoint& point) { return point.x >= 0.05 * last; });
    if (early != series.points.end() && !series.dashed) top = std::max(top, early->y);
  }
  if (top > 0) chart.y.high = top;
  std::stable_sort(chart.series.begin(), chart.series.end(),
                   [](const ChartSeries& a, const ChartSeries& b) { return a.color < b.color; });
  return chart;
}

bool all_numbers(const std::vector<std::string>& texts, std::vector<double>* numbers) {
  for (const std::string& text : texts) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || !(number > 0)) return false;
    numbers->push_back(number);
  }
  return true;
}

}  // namespace

std::vector<Chart> comparison_charts(const ExperimentResults& experiment) {
  const Figure figure = reference_figure(experiment);
  // Those of tasks stand with the tasks.
  const std::vector<Measured> main =
      main_measured(experiment, figure == Figure::accuracy ? Figure::bits_per_byte : figure);
  if (main.empty()) return {};
  const Figure shown = figure == Figure::accuracy ? Figure::bits_per_byte : figure;
  if (places_of(main).size() > 1)
    return {against_length(experiment, main, shown), differences(experiment, main, shown)};
  const bool several_seeds =
      std::any_of(main.begin(), main.end(), [](const Measured& m) { return m.by_seed.size() > 1; });
  if (!several_seeds) return {differences(experiment, main, shown)};
  return {against_seed(experiment, main, shown), differences(experiment, main, shown)};
}

std::vector<Chart> evaluation_charts(const ExperimentResults& experiment) {
  std::map<int64_t, Chart> charts;
  const std::vector<Measured> all = measured(experiment, Figure::bits_per_byte);
  // A carried state at one length is a figure of the table, not a line.
  std::map<int64_t, std::set<int64_t>> carried_lengths;
  for (const Measured& entry : all)
    if (entry.place.state == "carry") carried_lengths[entry.place.trained].insert(entry.place.length);
  for (const Measured& entry : all) {
    if (entry.place.trained == 0 && entry.place.state != "carry") continue;
    if (entry.place.state == "carry" && carried_lengths[entry.place.trained].size() < 2) continue;
    Chart& chart = charts[entry.place.trained];
    chart.title = entry.place.trained
                      ? fmt::format("Trained at {}, read at other lengths", length_text(entry.place.trained))
                      : std::string("State carried from window to window");
    chart.note = kIntervals;
    chart.x = length_axis("tokens a window in evaluation");
    chart.y = figure_axis(Figure::bits_per_byte);
    const Summary s = entry.summary();
    const bool carried = entry.place.state == "carry";
    ChartSeries& series =
        series_named(chart, entry.series + (carried ? ", carried" : ""), color_of(experiment, entry.series));
    series.dashed = carried;
    series.points.push_back({static_cast<double>(entry.place.length), s.mean, s.half_width,
                             tip_of(series.name, entry.place.text(), Figure::bits_per_byte, s)});
  }
  std::vector<Chart> result;
  for (auto& [trained, chart] : charts) {
    std::set<double> lengths;
    for (const ChartSeries& series : chart.series)
      for (const ChartPoint& point : series.points) lengths.insert(point.x);
    sort_points(chart);
    if (lengths.size() > 1) result.push_back(std::move(chart));
  }
  return result;
}

std::vector<Chart> cost_charts(const ExperimentResults& experiment) {
  std::vector<Chart> charts;
  charts.push_back(cost_chart(
      experiment, "Speed of training", axis("tokens a second", Unit::count, true), true,
      [](const RunResults& run) { return run.tokens_per_second; },
      [](double value) { return count_text(value) + " tokens/s"; }));
  charts.push_back(cost_chart(
      experiment, "Peak memory of training", axis("memory of the process", Unit::bytes, true), true,
      [](const RunResults& run) { return static_cast<double>(run.peak_memory_bytes); }, bytes_text));
  charts.push_back(cost_chart(
      experiment, "State of a text", axis("memory of one text while it is read", Unit::bytes, true), false,
      [](const RunResults& run) { return static_cast<double>(run.state_bytes); }, bytes_text));
  std::erase_if(charts, [](const Chart& chart) { return chart.series.empty(); });
  return charts;
}

std::vector<Chart> task_charts(const ExperimentResults& experiment) {
  std::map<std::pair<std::string, int64_t>, std::vector<Measured>> tasks;
  std::set<int64_t> trained;
  for (Measured& entry : measured(experiment, Figure::accuracy)) {
    trained.insert(entry.place.trained);
    tasks[{entry.place.task, entry.place.trained}].push_back(std::move(entry));
  }
  std::vector<Chart> charts;
  for (const auto& [key, entries] : tasks) {
    Chart chart;
    chart.title = key.first + (trained.size() > 1 ? ", " + trained_at(key.second) : "");
    chart.note = kIntervals;
    std::vector<std::string> groups;
    for (const Measured& entry : entries)
      if (std::find(groups.begin(), groups.end(), entry.place.group) == groups.end())
        groups.push_back(entry.place.group);
    std::sort(groups.begin(), groups.end(), group_less);
    std::vector<double> numbers;
    const bool numeric = groups.size() > 1 && all_numbers(groups, &numbers);
    if (numeric) {
      chart.x = length_axis("group");
    } else {
      chart.x = axis("group", Unit::category);
      chart.x.categories = groups;
      numbers.clear();
      for (size_t i = 0; i < groups.size(); ++i) numbers.push_back(static_cast<double>(i));
    }
    chart.y = figure_axis(Figure::accuracy);
    chart.y.low = -0.02;
    chart.y.high = 1.04;
    for (const Measured& entry : entries) {
      const Summary s = entry.summary();
      const auto group = std::find(groups.begin(), groups.end(), entry.place.group) - groups.begin();
      series_named(chart, entry.series, color_of(experiment, entry.series))
          .points.push_back({numbers[static_cast<size_t>(group)], s.mean, s.half_width,
                             tip_of(entry.series, entry.place.text(), Figure::accuracy, s)});
    }
    if (chart.reference = chance_of(experiment, key.first); std::isfinite(chart.reference))
      chart.note += " The line across is chance: a guess among the values that were told.";
    sort_points(chart);
    charts.push_back(std::move(chart));
  }
  return charts;
}

std::vector<Chart> curve_charts(const ExperimentResults& experiment, bool held_out) {
  std::set<int64_t> lengths;
  size_t most = 0;
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run || !experiment.is_placed(run)) continue;
    lengths.insert(run.trained_length());
    most = std::max(most, held_out ? run.validations.size() : run.curve.size());
  }
  if (most < 3) return {};  // no curve
  std::vector<Chart> charts;
  for (const int64_t length : lengths) {
    const auto add = [&](const char* against, const ChartAxis& x,
                         const std::function<double(const CurvePoint&)>& of_point) {
      Chart chart = curves(experiment, length, x, held_out, of_point);
      chart.title = fmt::format("{} loss against {}", held_out ? "Held-out" : "Training", against);
      if (length) chart.title += ", trained at " + length_text(length);
      charts.push_back(std::move(chart));
    };
    add("tokens", axis("tokens trained on", Unit::count), [](const CurvePoint& p) { return p.tokens; });
    add("time", axis("time of training", Unit::seconds), [](const CurvePoint& p) { return p.seconds; });
  }
  return charts;
}

std::vector<Chart> profile_charts(const ExperimentResults& experiment) {
  std::vector<Chart> charts;
  const auto add = [&](const std::vector<LossProfile>& profiles, bool by_context) {
    std::map<Place, Chart> by_place;
    for (const LossProfile& profile : profiles) {
      Chart& chart = by_place[profile.place];
      chart.title = by_context ? "Loss by context, " + profile.place.text()
                               : "Loss by phase less its mean, " + profile.place.text();
      chart.note = kIntervals;
      if (!by_context) chart.reference = 0;
      chart.x = by_context ? length_axis("tokens that the model had seen")
                           : axis(fmt::format("t mod {}", profile.bins.size()), Unit::category);
      chart.y = axis("bits per token");
      for (size_t i = 0; !by_context && i < profile.bins.size(); ++i)
        chart.x.categories.push_back(fmt::format("{}", i));
      chart.x.categories.resize(by_context ? 0 : profile.bins.size());
      ChartSeries& series = series_named(chart, profile.series, color_of(experiment, profile.series));
      for (const LossProfile::Bin& bin : profile.bins) {
        const std::string range =
            !by_context ? fmt::format("phase {}", bin.from)
            : bin.from == bin.to
                ? fmt::format("token {}", grouped_text(bin.from))
                : fmt::format("tokens {} to {}", grouped_text(bin.from), grouped_text(bin.to));
        const Summary& bits = by_context ? bin.bits : bin.above_mean;
        series.points.push_back({static_cast<double>(by_context ? bin.to : bin.from), bits.mean,
                                 bits.half_width,
                                 tip_of(profile.series, range, Figure::bits_per_token, bits)});
      }
    }
    for (auto& [place, chart] : by_place) {
      sort_points(chart);
      charts.push_back(std::move(chart));
    }
  };
  add(losses_by_context(experiment), true);
  add(losses_by_phase(experiment), false);
  return charts;
}

std::vector<Chart> tuning_charts(const ExperimentResults& experiment) {
  std::map<int64_t, Chart> charts;
  for (const TuningGrid& grid : tuning_grids(experiment)) {
    Chart& chart = charts[grid.trained];
    chart.title = "Learning rates tried" + (grid.trained ? ", trained at " + length_text(grid.trained) : "");
    chart.note = "Held-out bits per byte of the tuning runs; rates that diverged are left out.";
    chart.x = axis("factor of the variant's base rate", Unit::number, true);
    chart.y = figure_axis(Figure::bits_per_byte);
    ChartSeries& series = series_named(chart, grid.series, color_of(experiment, grid.series));
    for (const TuningGrid::Tried& tried : grid.tried) {
      std::vector<double> factor;
      if (!all_numbers({tried.factor}, &factor) || tried.diverged) continue;
      series.points.push_back({factor[0], tried.bits_per_byte.mean, ChartAxis::kUnset,
                               fmt::format("{}, \u00d7 {}: {}", grid.series, tried.factor,
                                           fixed_text(tried.bits_per_byte.mean, 4))});
    }
  }
  std::vector<Chart> result;
  for (auto& [trained, chart] : charts) {
    sort_points(chart);
    result.push_back(std::move(chart));
  }
  return result;
}

}  // namespace harmonic
