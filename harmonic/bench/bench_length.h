// What length costs: the time of a token against the length of its text, and of one far into a stream.
#pragma once

#include "harmonic/bench/bench_report.h"

namespace harmonic {

struct LengthBench {
  std::string mixer = "harmonic";
  int64_t d_model = 128, vocabulary = 256;
  std::vector<int64_t> lengths = {1000, 8000, 64000};
  int64_t memory_mb = 128;      // for activations of a training step
  int64_t stream = 10'000'000;  // tokens before the far blocks; 0 leaves the stream out
  int64_t runs = 5;
};

// Evaluation, prefill and a training step, each over as many tokens at every length; and tokens at position
// `stream` against tokens at position 1,000, in blocks that take turns. Checked first: check_length().
BenchReport bench_length(const LengthBench& options, ThreadPool& pool);

}  // namespace harmonic
