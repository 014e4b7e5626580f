#include "harmonic/bench/bench_report.h"

#include <fmt/format.h>

#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/json.h"
#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/ops/device_peak.h"
#include "harmonic/ops/machine_peak.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {
namespace {

std::string text_of(const BenchReport::Cell& cell, int decimals) {
  if (const auto* text = std::get_if<std::string>(&cell)) return *text;
  const double number = std::get<double>(cell);
  return std::isfinite(number) ? fmt::format("{:.{}f}", number, decimals) : "";
}

}  // namespace

Machine measure_machine(ThreadPool& pool, const Backend& backend) {
  if (backend.device != Device::cpu) {
    const double bandwidth = measure_bandwidth(pool, backend);
    return {cuda_plugin().device,
            std::string(backend.name),
            pool.threads(),
            measure_matrix_peak(pool, backend),
            bandwidth,
            bandwidth};
  }
  return {processor_name(),
          std::string(simd_target_name()),
          pool.threads(),
          measure_matrix_peak(pool),
          measure_bandwidth(pool),
          measure_read_bandwidth(pool),
          measure_matrix_peak(pool, Precision::bf16)};
}

double Machine::peak_of(const Backend& backend) const {
  return backend.device == Device::cpu && backend.precision == Precision::bf16 ? bf16_peak : matrix_peak;
}

MemoryAround::MemoryAround(ThreadPool& pool, const Backend& backend, const Machine& machine, Kind kind)
    : pool_(pool), backend_(backend), machine_(machine), kind_(kind), before_(now()) {}

double MemoryAround::now() const {
  const bool reading = kind_ == Kind::reading;
  if (backend_.device != Device::cpu) return reading ? machine_.read_bandwidth : machine_.bandwidth;
  return reading ? measure_read_bandwidth(pool_) : measure_bandwidth(pool_);
}

double MemoryAround::bytes_per_second() const { return (before_ + now()) / 2; }

std::string table_of(const BenchReport& report) {
  const Machine& m = report.machine;
  std::string text = fmt::format(
      "{}: {}, {} threads, {}; matrix peak {:.1f} GFLOP/s{}, memory {:.1f} GB/s, reading {:.1f} GB/s\n",
      report.name, m.processor, m.threads, m.vectors, m.matrix_peak * 1e-9,
      m.bf16_peak > 0 ? fmt::format(" (bf16 {:.1f})", m.bf16_peak * 1e-9) : "", m.bandwidth * 1e-9,
      m.read_bandwidth * 1e-9);
  for (const std::string& check : report.checks) text += fmt::format("checked: {}\n", check);
  for (const std::string& remark : report.remarks) text += remark + "\n";
  std::vector<size_t> widths;
  for (size_t c = 0; c < report.columns.size(); ++c) {
    widths.push_back(report.columns[c].name.size());
    for (const auto& row : report.rows)
      widths[c] = std::max(widths[c], text_of(row.at(c), report.columns[c].decimals).size());
  }
  const auto add = [&](size_t c, const std::string& cell, bool words) {
    text += c == 0 ? "" : "  ";
    text += words ? fmt::format("{:<{}}", cell, widths[c]) : fmt::format("{:>{}}", cell, widths[c]);
  };
  const auto holds_words = [](const BenchReport::Cell& cell) {
    return std::holds_alternative<std::string>(cell);
  };
  for (size_t c = 0; c < report.columns.size(); ++c)
    add(c, report.columns[c].name, !report.rows.empty() && holds_words(report.rows[0][c]));
  for (const auto& row : report.rows) {
    text += '\n';
    for (size_t c = 0; c < row.size(); ++c)
      add(c, text_of(row[c], report.columns[c].decimals), holds_words(row[c]));
  }
  return text + "\n";
}

std::string json_of(const BenchReport& report) {
  const Machine& m = report.machine;
  Json rows = Json::array();
  for (const auto& row : report.rows) {
    Json object = Json::object();
    for (size_t c = 0; c < row.size(); ++c) {
      if (const auto* text = std::get_if<std::string>(&row[c])) {
        object[report.columns[c].name] = *text;
      } else {
        const double number = std::get<double>(row[c]);
        object[report.columns[c].name] = std::isfinite(number) ? Json(number) : Json();
      }
    }
    rows.push_back(std::move(object));
  }
  const Json json = {{"bench", report.name},
                     {"machine",
                      {{"processor", m.processor},
                       {"vectors", m.vectors},
                       {"threads", m.threads},
                       {"matrix_peak", m.matrix_peak},
                       {"bf16_peak", m.bf16_peak > 0 ? Json(m.bf16_peak) : Json()},
                       {"bandwidth", m.bandwidth},
                       {"read_bandwidth", m.read_bandwidth}}},
                     {"checks", report.checks},
                     {"remarks", report.remarks},
                     {"rows", rows}};
  return json.dump(2) + "\n";
}

}  // namespace harmonic
