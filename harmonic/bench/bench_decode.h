// Decoding: one token for each of some streams at a time.
#pragma once

#include "harmonic/bench/bench_report.h"

namespace harmonic {

struct DecodeBench {
  std::vector<std::string> mixers = {"harmonic", "attention", "mamba"};
  std::vector<int64_t> widths = {256};  // d_model
  int64_t layers = 0;                   // 0: the paper's
  std::vector<std::string> weights = {"f32", "bf16", "int8"};
  std::vector<int64_t> streams = {1, 4, 16, 64};
  int64_t vocabulary = 50257;
  int64_t tokens = 32;  // of each stream, a run
  int64_t runs = 5;
  std::string precision = "f32";  // of the backend: what the checks allow
};

// From a token's number to the logits of the next, without sampling; on a card to the next one, which is
// chosen there. Checked first: check_decoding().
BenchReport bench_decode(const DecodeBench& options, ThreadPool& pool,
                         const Backend& backend = cpu_backend());

}  // namespace harmonic
