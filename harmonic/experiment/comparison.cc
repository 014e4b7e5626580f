#include "harmonic/experiment/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "harmonic/experiment/number_text.h"

namespace harmonic {
namespace {

// "1K", "1K and 4K", "1K, 4K and 16K"
std::string listed(const std::vector<std::string>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i)
    text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
  return text;
}

bool is_number(const std::string& text, double* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size();
}

// The length of training tells tasks apart only where it differs between runs.
void add_figures(const RunResults& run, Figure figure, bool several_lengths,
                 const std::function<void(const Place&, double)>& add) {
  if (figure == Figure::accuracy) {
    for (const TaskResults& task : run.tasks)
      add({several_lengths ? run.trained_length() : 0, 0, "", task.task, task.group}, task.accuracy);
    return;
  }
  for (const LengthResults& result : run.lengths)
    add({run.trained_length(), result.length, result.state, "", ""},
        figure == Figure::bits_per_byte ? result.bits_per_byte : result.bits_per_token);
}

struct BinFigures {
  std::vector<double> bits, above_mean;
};
using Bins = std::map<std::pair<int64_t, int64_t>, BinFigures>;

// `bits_of` gives the bits of one evaluation by their ranges.
template <typename BitsOf>
std::vector<LossProfile> profiles(const ExperimentResults& experiment, BitsOf bits_of) {
  const std::vector<std::string> series = experiment.series();
  const std::vector<Measured> main = main_measured(experiment, Figure::bits_per_byte);
  int64_t longest = 0;
  for (const Measured& entry : main) longest = std::max(longest, entry.place.length);
  std::map<Place, std::vector<Bins>> all;
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run || !run.counts()) continue;
    const auto order = std::find(series.begin(), series.end(), run.series()) - series.begin();
    for (const LengthResults& result : run.lengths) {
      const Place place{run.trained_length(), result.length, result.state, "", ""};
      const bool is_main =
          std::any_of(main.begin(), main.end(), [&](const Measured& m) { return m.place == place; });
      if (!is_main || (place.trained != place.length && place.length != longest)) continue;
      std::vector<Bins>& bins = all[place];
      bins.resize(series.size());
      const auto ranges = bits_of(result);
      double sum = 0;
      for (const auto& [range, figure] : ranges) sum += figure;
      for (const auto& [range, figure] : ranges) {
        BinFigures& bin = bins[static_cast<size_t>(order)][range];
        bin.bits.push_back(figure);
        bin.above_mean.push_back(figure - sum / static_cast<double>(ranges.size()));
      }
    }
  }
  std::vector<LossProfile> result;
  for (const auto& [place, by_series] : all) {
    for (size_t i = 0; i < by_series.size(); ++i) {
      LossProfile profile{series[i], place, {}};
      for (const auto& [range, bin] : by_series[i])
        profile.bins.push_back({range.first, range.second, summarize(bin.bits), summarize(bin.above_mean)});
      if (!profile.bins.empty()) result.push_back(std::move(profile));
    }
  }
  return result;
}

double tuning_result(const RunResults& run) {
  for (const LengthResults& result : run.lengths)
    if (run.trained_length() == 0 || result.length == run.trained_length()) return result.bits_per_byte;
  if (!run.lengths.empty()) return run.lengths.front().bits_per_byte;
  return run.validations.empty() ? std::nan("") : run.validations.back().bits_per_byte;
}

// Of the runs of the comparison; `trained` 0: at any length.
std::vector<std::string> chosen_factors(const ExperimentResults& experiment, const std::string& series,
                                        int64_t trained) {
  std::vector<std::string> chosen;
  for (const RunResults& run : experiment.runs) {
    const std::string factor = run.axis("lr_factor");
    if (run.planned && run.kind == RunResults::Kind::run && run.series() == series && !factor.empty() &&
        (trained == 0 || run.trained_length() == trained))
      chosen.push_back(factor);
  }
  std::sort(chosen.begin(), chosen.end(), group_less);
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

// "harmonic against mamba": where the interval lies clear of zero, and where it does not.
Finding finding_of(const std::pair<std::string, std::string>& pair, Figure figure,
                   const std::vector<Comparison>& comparisons) {
  std::vector<std::string> lower, higher, open, single;
  Finding finding;
  const int digits = figure == Figure::accuracy ? 3 : 4;
  for (const Comparison& c : comparisons) {
    if (c.first != pair.first || c.second != pair.second) continue;
    const Summary& d = c.paired.difference;
    const std::string place = c.place.text();
    if (d.count < 2) {
      single.push_back(place);
      finding.lines.push_back(
          fmt::format("{}: {}, one seed, no interval", place, signed_text(d.mean, digits)));
      continue;
    }
    (d.high() < 0 ? lower : d.low() > 0 ? higher : open).push_back(place);
    finding.lines.push_back(fmt::format("{}: {} (95 % interval {} to {}), {} seeds", place,
                                        signed_text(d.mean, digits), signed_text(d.low(), digits),
                                        signed_text(d.high(), digits), better_text(c, figure)));
  }
  if (finding.lines.empty()) {
    finding.headline =
        fmt::format("{} against {}: no seed in common, nothing to compare.", pair.first, pair.second);
    return finding;
  }
  std::vector<std::string> parts;
  const auto part = [&](const char* words, const std::vector<std::string>& places) {
    if (!places.empty()) parts.push_back(fmt::format("{} at {}", words, listed(places)));
  };
  part("lower", lower);
  part("higher", higher);
  part("not told apart", open);
  part("of one seed only", single);
  std::string text;
  for (const std::string& words : parts) text += (text.empty() ? "" : "; ") + words;
  finding.headline = fmt::format("{} against {}, {} ({} is better): {}.", pair.first, pair.second,
                                 figure_name(figure), lower_is_better(figure) ? "lower" : "higher", text);
  return finding;
}

// At the seeds in common.
Comparison compared(const std::string& first, const Measured& a, const std::string& second,
                    const Measured& b) {
  Comparison comparison{first, second, a.place, {}, {}};
  std::vector<double> of_a, of_b;
  for (const auto& [seed, figure] : a.by_seed) {
    const auto same = std::find_if(b.by_seed.begin(), b.by_seed.end(),
                                   [&](const auto& other) { return other.first == seed; });
    if (same == b.by_seed.end()) continue;
    comparison.seeds.push_back(seed);
    of_a.push_back(figure);
    of_b.push_back(same->second);
  }
  if (!comparison.seeds.empty()) comparison.paired = paired_difference(of_a, of_b);
  return comparison;
}

// Those that are not begun stand in one line.
Finding left_out_of(const ExperimentResults& experiment) {
  Finding finding;
  finding.left_out = true;
  size_t runs = 0, left_out = 0;
  std::vector<std::string> not_begun;
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run) continue;
    ++runs;
    if (run.counts()) continue;
    ++left_out;
    if (run.status == RunResults::Status::not_begun) {
      not_begun.push_back(run.id);
    } else {
      finding.lines.push_back(fmt::format("{}: {}", run.id, run.why_not()));
    }
  }
  if (!not_begun.empty()) finding.lines.push_back("not begun: " + listed(not_begun));
  finding.headline =
      fmt::format("{} of {} runs left out of every mean and every comparison:", left_out, runs);
  return finding;
}

}  // namespace

Figure reference_figure(const ExperimentResults& experiment) {
  if (experiment.reference == "accuracy") return Figure::accuracy;
  return experiment.reference == "bits_per_token" ? Figure::bits_per_token : Figure::bits_per_byte;
}

std::string figure_name(Figure figure) {
  if (figure == Figure::accuracy) return "accuracy";
  return figure == Figure::bits_per_byte ? "bits per byte" : "bits per token";
}

bool lower_is_better(Figure figure) { return figure != Figure::accuracy; }

std::string better_text(const Comparison& comparison, Figure figure) {
  const bool lower = lower_is_better(figure);
  return fmt::format("{} in {} of {}", lower ? "lower" : "higher",
                     lower ? comparison.paired.below : comparison.paired.above, comparison.seeds.size());
}

std::string Place::text() const {
  if (!task.empty()) {
    const std::string at = trained ? fmt::format(", trained at {}", length_text(trained)) : "";
    return task + (group.empty() ? "" : " " + group) + at;
  }
  const std::string carried = state == "carry" ? ", state carried" : "";
  if (at_own_length()) return length_text(length) + carried;
  return fmt::format("{} (trained at {}){}", length_text(length), length_text(trained), carried);
}

bool group_less(const std::string& a, const std::string& b) {
  double x = 0, y = 0;
  const bool number = is_number(a, &x), other = is_number(b, &y);
  if (number && other && x != y) return x < y;
  return number != other ? number : a < b;
}

bool operator<(const Place& a, const Place& b) {
  const auto without_group = [](const Place& p) { return std::tie(p.task, p.trained, p.length, p.state); };
  if (without_group(a) != without_group(b)) {
    // The figures at the length of training first, with a cold state before a carried one.
    return std::tuple(a.task, !a.at_own_length(), a.trained, a.length, a.state != "cold") <
           std::tuple(b.task, !b.at_own_length(), b.trained, b.length, b.state != "cold");
  }
  return group_less(a.group, b.group);
}

Summary Measured::summary() const {
  std::vector<double> figures;
  for (const auto& [seed, figure] : by_seed) figures.push_back(figure);
  return summarize(figures);
}

std::vector<Measured> measured(const ExperimentResults& experiment, Figure figure) {
  const std::vector<std::string> series = experiment.series();
  std::map<Place, std::map<size_t, Measured>> all;
  std::set<int64_t> lengths;
  for (const RunResults& run : experiment.runs)
    if (run.kind == RunResults::Kind::run && run.counts()) lengths.insert(run.trained_length());
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::run || !run.counts()) continue;
    const size_t order =
        static_cast<size_t>(std::find(series.begin(), series.end(), run.series()) - series.begin());
    add_figures(run, figure, lengths.size() > 1, [&](const Place& place, double value) {
      Measured& entry = all[place][order];
      entry.series = run.series();
      entry.place = place;
      entry.by_seed.emplace_back(run.axis("seed"), value);
    });
  }
  std::vector<Measured> result;
  for (auto& [place, by_series] : all) {
    for (auto& [order, entry] : by_series) {
      std::stable_sort(entry.by_seed.begin(), entry.by_seed.end(),
                       [](const auto& a, const auto& b) { return group_less(a.first, b.first); });
      result.push_back(std::move(entry));
    }
  }
  return result;
}

std::vector<Measured> main_measured(const ExperimentResults& experiment, Figure figure) {
  const std::vector<Measured> all = measured(experiment, figure);
  std::vector<Measured> own, cold;
  for (const Measured& entry : all) {
    if (!entry.place.at_own_length()) continue;
    own.push_back(entry);
    if (entry.place.state != "carry") cold.push_back(entry);
  }
  return !cold.empty() ? cold : !own.empty() ? own : all;
}

std::vector<Comparison> comparisons(const ExperimentResults& experiment,
                                    const std::vector<Measured>& measurements) {
  std::vector<Comparison> result;
  for (const auto& [first, second] : experiment.pairs) {
    for (const Measured& a : measurements) {
      if (a.series != first) continue;
      const auto b = std::find_if(measurements.begin(), measurements.end(), [&](const Measured& other) {
        return other.series == second && other.place == a.place;
      });
      if (b == measurements.end()) continue;
      if (Comparison comparison = compared(first, a, second, *b); !comparison.seeds.empty())
        result.push_back(std::move(comparison));
    }
  }
  return result;
}

std::vector<Comparison> carried_against_cold(const ExperimentResults& experiment, Figure figure) {
  std::vector<Comparison> result;
  if (experiment.plain) return result;  // whose runs may have one name and one seed
  const std::vector<Measured> all = measured(experiment, figure);
  for (const Measured& cold : all) {
    if (cold.place.state != "cold") continue;
    Place place = cold.place;
    place.state = "carry";
    const auto carried = std::find_if(all.begin(), all.end(), [&](const Measured& other) {
      return other.series == cold.series && other.place == place;
    });
    if (carried == all.end()) continue;
    Comparison comparison = compared(cold.series + ", carried", *carried, cold.series + ", cold", cold);
    comparison.place = cold.place;
    if (!comparison.seeds.empty()) result.push_back(std::move(comparison));
  }
  return result;
}

std::vector<LossProfile> losses_by_context(const ExperimentResults& experiment) {
  return profiles(experiment, [](const LengthResults& result) {
    std::map<std::pair<int64_t, int64_t>, double> bits;
    for (const ContextLoss& loss : result.by_context) bits[{loss.from, loss.to}] = loss.bits_per_token;
    return bits;
  });
}

std::vector<LossProfile> losses_by_phase(const ExperimentResults& experiment) {
  return profiles(experiment, [](const LengthResults& result) {
    std::map<std::pair<int64_t, int64_t>, double> bits;
    for (size_t i = 0; i < result.by_phase.size(); ++i)
      if (std::isfinite(result.by_phase[i]))
        bits[{static_cast<int64_t>(i), static_cast<int64_t>(i)}] = result.by_phase[i];
    return bits;
  });
}

std::vector<TuningGrid> tuning_grids(const ExperimentResults& experiment) {
  const auto less = [](const std::string& a, const std::string& b) { return group_less(a, b); };
  std::map<int64_t, std::map<size_t, std::map<std::string, std::vector<const RunResults*>, decltype(less)>>>
      all;
  const std::vector<std::string> series = experiment.series();
  for (const RunResults& run : experiment.runs) {
    if (run.kind != RunResults::Kind::tune || !experiment.is_placed(run)) continue;
    const auto order = std::find(series.begin(), series.end(), run.series()) - series.begin();
    all[run.trained_length()][static_cast<size_t>(order)][run.axis("lr_factor")].push_back(&run);
  }
  std::vector<TuningGrid> grids;
  for (const auto& [trained, by_series] : all) {
    for (const auto& [order, by_factor] : by_series) {
      TuningGrid grid{series[order], trained, {}, {}};
      for (const auto& [factor, runs] : by_factor) {
        TuningGrid::Tried tried{factor, false, {}};
        std::vector<double> figures;
        for (const RunResults* run : runs) {
          tried.diverged = tried.diverged || run->status == RunResults::Status::diverged;
          if (const double figure = tuning_result(*run); run->counts() && std::isfinite(figure))
            figures.push_back(figure);
        }
        tried.bits_per_byte = summarize(figures);
        grid.tried.push_back(std::move(tried));
      }
      grid.chosen = chosen_factors(experiment, grid.series, trained);
      if (grid.chosen.empty()) grid.chosen = chosen_factors(experiment, grid.series, 0);
      grids.push_back(std::move(grid));
    }
  }
  return grids;
}

std::vector<Finding> findings(const ExperimentResults& experiment) {
  std::vector<Finding> result;
  const Figure figure = reference_figure(experiment);
  const std::vector<Comparison> paired = comparisons(experiment, main_measured(experiment, figure));
  for (const auto& pair : experiment.pairs) result.push_back(finding_of(pair, figure, paired));
  if (figure != Figure::accuracy) {
    const std::vector<Comparison> carried = carried_against_cold(experiment, figure);
    std::vector<std::pair<std::string, std::string>> pairs;
    for (const Comparison& c : carried)
      if (const std::pair pair(c.first, c.second); std::find(pairs.begin(), pairs.end(), pair) == pairs.end())
        pairs.push_back(pair);
    for (const auto& pair : pairs) result.push_back(finding_of(pair, figure, carried));
  }
  if (!experiment.plain) {
    if (Finding left_out = left_out_of(experiment); !left_out.lines.empty())
      result.push_back(std::move(left_out));
  }
  return result;
}

}  // namespace harmonic
