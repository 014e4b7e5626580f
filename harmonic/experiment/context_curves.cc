#include "harmonic/experiment/context_curves.h"

#include <algorithm>
#include <map>
#include <set>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/json.h"
#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/svg_chart.h"

namespace harmonic {

ContextCurve read_context_curve(const std::string& name, const std::filesystem::path& path) {
  const Json json = read_json(path, 1 << 24);
  ContextCurve curve{name, 0, {}};
  try {
    if (const auto certificate = json.find("certificate");
        certificate != json.end() && certificate->get<std::string>() != "passed")
      fail("{}: the model's certificate has {}: its bits are no evidence; harmonic check says where",
           path.string(), certificate->get<std::string>());
    for (const Json& result : json.at("results")) {
      constexpr int64_t kLongest = int64_t{1} << 40;
      constexpr double kMostBits = 1e6;
      const auto context = result.at("context").get<double>(),
                 bits = result.at("bits_per_token").get<double>();
      if (!(context >= 1 && context <= kLongest) || !(bits > 0 && bits <= kMostBits))
        fail("{}: {} bits a token at a context of {}: not what harmonic eval --contexts --json writes",
             path.string(), bits, context);
      const auto targets = result.at("targets").get<double>();
      if (!(targets >= 1 && targets <= kLongest))
        fail("{}: {} targets: not what harmonic eval --contexts --json writes", path.string(), targets);
      curve.targets = static_cast<int64_t>(targets);
      curve.points.emplace_back(static_cast<int64_t>(context), bits);
    }
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not what harmonic eval --contexts --json writes: {}", path.string(), error.what());
  }
  if (curve.points.empty()) fail("{}: no results; expected those of harmonic eval --contexts", path.string());
  std::sort(curve.points.begin(), curve.points.end());
  return curve;
}

std::string context_table(const std::vector<ContextCurve>& curves) {
  std::set<int64_t> contexts;
  std::vector<std::map<int64_t, double>> bits;
  std::string table = "| context |", rule = "|---:|";
  for (const ContextCurve& curve : curves) {
    bits.emplace_back(curve.points.begin(), curve.points.end());
    for (const auto& [context, ignored] : curve.points) contexts.insert(context);
    table += ' ';
    for (const char c : curve.name)
      table += c == '|' ? "\\|" : std::string(1, c);  // which would end the cell
    table += " |";
    rule += "---:|";
  }
  table += "\n" + rule + "\n";
  for (const int64_t context : contexts) {
    table += fmt::format("| {} |", grouped_text(context));
    const auto first = bits.front().find(context);
    for (size_t c = 0; c < curves.size(); ++c) {
      const auto found = bits[c].find(context);
      if (found == bits[c].end()) {
        table += " |";
        continue;
      }
      table += " " + fixed_text(found->second, 4);
      if (c > 0 && first != bits.front().end())
        table += fmt::format(" ({} %)", signed_text(100 * (found->second / first->second - 1), 1));
      table += " |";
    }
    table += "\n";
  }
  return table;
}

std::string context_chart(const std::vector<ContextCurve>& curves, double most) {
  Chart chart;
  chart.title = "bits a token by context, the same targets";
  chart.x.label = "tokens of context";
  chart.x.unit = ChartAxis::Unit::length;
  chart.x.logarithmic = true;
  chart.y.label = "bits a token";
  if (most > 0) chart.y.high = most;
  for (size_t c = 0; c < curves.size(); ++c) {
    ChartSeries series;
    series.name = curves[c].name;
    series.color = c;
    for (const auto& [context, bits] : curves[c].points)
      series.points.push_back({.x = static_cast<double>(context), .y = bits});
    chart.series.push_back(std::move(series));
  }
  return chart_file(chart);
}

}  // namespace harmonic
