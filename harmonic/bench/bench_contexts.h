// Decoding of a model that is given, after contexts of several lengths.
#pragma once

#include "harmonic/bench/bench_report.h"
#include "harmonic/model/model.h"

namespace harmonic {

struct ContextBench {
  std::string name;           // the model's, for people
  DType format = DType::f32;  // that matrices are packed in, where they are not in blocks
  std::vector<int64_t> contexts = {128, 2000, 8000};
  int64_t tokens = 32;  // decoded after a context, a run
  int64_t runs = 5;
};

// Of one text of random tokens: the time to read the context, and that from a token's number to the logits of
// the next, without sampling. Checked first: tokens one by one against the same at once, to the bit. Packs
// the model where it is not packed. Throws Error where a context and what is decoded after it do not
// fit.
BenchReport bench_contexts(const ContextBench& options, Model& model, ThreadPool& pool);

}  // namespace harmonic
