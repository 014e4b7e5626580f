// Single ops beside the peaks of the machine.
#pragma once

#include "harmonic/bench/bench_report.h"
#include "harmonic/ops/backend.h"

namespace harmonic {

struct OpsBench {
  std::vector<int64_t> channels = {256, 512};  // C; states have 2 C
  int64_t rows = 16384;                        // tokens
  int64_t vocabulary = 8192;
  int64_t runs = 9;               // of each op, at least
  std::string only = {};          // ops whose name begins so; empty for all
  std::string precision = "f32";  // of the backend: what the checks allow
};

// Every op is first held against the reference backend at a small size: throws Error where it differs.
BenchReport bench_ops(const OpsBench& options, ThreadPool& pool, const Backend& backend = cpu_backend());

}  // namespace harmonic
