// What a benchmark found, as a plain table and as JSON.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "harmonic/ops/backend.h"

namespace harmonic {

// The yardsticks of a run.
struct Machine {
  std::string processor;  // as the system names it
  std::string vectors;    // instructions in use
  int threads = 1;
  double matrix_peak = 0;     // floating-point operations a second
  double bandwidth = 0;       // bytes a second, two arrays read and one written
  double read_bandwidth = 0;  // bytes a second, read alone
  double bf16_peak = 0;       // as matrix_peak, of a processor's products in bf16; 0 where there are none

  // The one that a backend's products stand beside.
  double peak_of(const Backend& backend) const;
};
// Of the processor; or, with a backend of a card, of the card: its peak is that of a large product of the
// backend's, its bandwidth that of a sum of two arrays.
Machine measure_machine(ThreadPool& pool, const Backend& backend = cpu_backend());

// The speed of memory around a measurement, the mean of that before and that after: what a shared machine has
// of it changes within seconds. On a card it is the one of `machine`.
class MemoryAround {
 public:
  enum class Kind { both_ways, reading };
  MemoryAround(ThreadPool& pool, const Backend& backend, const Machine& machine, Kind kind);
  double bytes_per_second() const;

 private:
  double now() const;

  ThreadPool& pool_;
  const Backend& backend_;
  const Machine& machine_;
  Kind kind_;
  double before_;
};

struct BenchReport {
  struct Column {
    std::string name;  // with its unit
    int decimals = 0;
  };
  using Cell = std::variant<std::string, double>;  // a number that is not finite is left out

  std::string name;
  Machine machine;
  std::vector<std::string> checks;  // that were passed before anything was measured
  std::vector<std::string> remarks;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;  // as many cells as columns
};

std::string table_of(const BenchReport& report);
std::string json_of(const BenchReport& report);

}  // namespace harmonic
