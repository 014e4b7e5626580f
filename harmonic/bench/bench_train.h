// Training steps of whole models.
#pragma once

#include "harmonic/bench/bench_report.h"

namespace harmonic {

struct TrainBench {
  std::vector<std::string> mixers = {"harmonic", "attention", "mamba"};
  std::vector<int64_t> widths = {256, 512};     // d_model
  std::vector<int64_t> lengths = {1000, 8000};  // T
  int64_t vocabulary = 8192;
  int64_t tokens_per_step = 8000;
  int64_t memory_mb = 512;
  int64_t runs = 5;                               // steps, after one that does not count
  std::vector<std::string> precisions = {"f32"};  // of the backends: what the checks allow
};

// Gradients, their norm and the update by AdamW, of random tokens, in every precision in turn. `backends`:
// one for each. Checked first: check_training(). Throws Error (usage) for several precisions on a card.
BenchReport bench_train(const TrainBench& options, ThreadPool& pool,
                        const std::vector<const Backend*>& backends);

}  // namespace harmonic
