// Peak memory and time of one training step with exact gradients, against its length.
#pragma once

#include "harmonic/bench/bench_report.h"

namespace harmonic {

struct MemoryBench {
  // "TOKENS:VOCABULARY:D_MODEL": the paper's model at 64K, then two models at two lengths each.
  std::vector<std::string> cases = {"64K:50257:256", "16K:8192:256", "1M:8192:256", "64K:256:128",
                                    "10M:256:128"};
  std::string mixer = "harmonic";
  int64_t memory_mb = 512;  // for activations
  int threads = 1;
};

// Each case runs in a process of its own, so that its peak is its own; no other thread may run meanwhile.
// Checked first, of the first case's model: check_length().
BenchReport bench_memory(const MemoryBench& options);

}  // namespace harmonic
