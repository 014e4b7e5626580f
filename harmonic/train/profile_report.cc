#include "harmonic/train/profile_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "harmonic/base/json.h"

namespace harmonic {
namespace {

std::string operand_of(const OpCost& cost) {
  if (cost.inputs > 0) return fmt::format("{} -> {}", cost.inputs, cost.outputs);
  return cost.outputs > 0 ? fmt::format("{}", cost.outputs) : "";
}

std::string rate(double amount, double seconds) {
  return amount > 0 && seconds > 0 ? fmt::format("{:.1f}", amount / seconds * 1e-9) : "";
}

// Of the peak that comes nearer to being the limit.
double share_of_peak(const Profile::Entry& entry, const ProfiledSteps& steps) {
  return std::max(entry.cost.operations / steps.matrix_peak, entry.cost.bytes / steps.bandwidth) /
         entry.seconds;
}

}  // namespace

std::string profile_table(const Profile& profile, const ProfiledSteps& steps) {
  if (steps.steps == 0) return "profile: no step was measured; the first one only warms the machine up";
  const double count = static_cast<double>(steps.steps);
  std::string text = fmt::format(
      "profile of {} steps, {:.0f} tokens and {:.2f} ms each; {} threads, {}, matrix peak {:.1f} GFLOP/s, "
      "memory {:.1f} GB/s\n{:<22} {:<9} {:>14} {:>9} {:>10} {:>7} {:>9} {:>8} {:>8}\n",
      steps.steps, static_cast<double>(steps.tokens) / count, steps.seconds / count * 1e3, steps.threads,
      steps.processor, steps.matrix_peak * 1e-9, steps.bandwidth * 1e-9, "op", "way", "columns", "calls",
      "ms", "share", "GFLOP/s", "GB/s", "of peak");
  const auto row = [&](std::string_view name, std::string_view way, const std::string& columns,
                       const std::string& calls, double seconds, const std::string& rest) {
    text += fmt::format("{:<22} {:<9} {:>14} {:>9} {:>10.3f} {:>6.1f}%{}\n", name, way, columns, calls,
                        seconds / count * 1e3, 100 * seconds / steps.seconds, rest);
  };
  double operations = 0;
  double by_way[4] = {};
  for (const Profile::Entry& entry : profile.entries()) {
    const OpCost& cost = entry.cost;
    operations += cost.operations;
    by_way[static_cast<size_t>(cost.way)] += entry.seconds;
    row(cost.name, name_of(cost.way), operand_of(cost),
        fmt::format("{:.1f}", static_cast<double>(entry.calls) / count), entry.seconds,
        fmt::format(" {:>9} {:>8} {:>7.1f}%", rate(cost.operations, entry.seconds),
                    rate(cost.bytes, entry.seconds), 100 * share_of_peak(entry, steps)));
  }
  for (const OpWay way : {OpWay::forward, OpWay::backward, OpWay::both, OpWay::update})
    row("all", name_of(way), "", "", by_way[static_cast<size_t>(way)], "");
  row("outside ops", "", "", "", steps.seconds - profile.seconds(), "");
  row("step", "", "", "", steps.seconds,
      fmt::format(" {:>9} {:>8} {:>7.1f}%", rate(operations, steps.seconds), "",
                  100 * operations / steps.seconds / steps.matrix_peak));
  text.pop_back();
  return text;
}

std::string profile_json(const Profile& profile, const ProfiledSteps& steps) {
  Json ops = Json::array();
  for (const Profile::Entry& entry : profile.entries())
    ops.push_back({{"op", entry.cost.name},
                   {"way", name_of(entry.cost.way)},
                   {"inputs", entry.cost.inputs},
                   {"outputs", entry.cost.outputs},
                   {"calls", entry.calls},
                   {"seconds", entry.seconds},
                   {"operations", entry.cost.operations},
                   {"bytes", entry.cost.bytes}});
  const Json json = {{"processor", steps.processor},
                     {"threads", steps.threads},
                     {"matrix_peak", steps.matrix_peak},
                     {"bandwidth", steps.bandwidth},
                     {"steps", steps.steps},
                     {"tokens", steps.tokens},
                     {"seconds", steps.seconds},
                     {"seconds_in_ops", profile.seconds()},
                     {"ops", ops}};
  return json.dump(2) + "\n";
}

}  // namespace harmonic
