// The texts of a run, as tokens.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "harmonic/base/thread_pool.h"
#include "harmonic/data/token_corpus.h"
#include "harmonic/tokenizer/tokenizer.h"
#include "harmonic/train/train_config.h"

namespace harmonic {

struct TrainingData {
  std::unique_ptr<Tokenizer> tokenizer;
  TokenCorpus train;
  std::optional<TokenCorpus> valid;  // none when data.valid is empty
};

// Reads what [data] names. "bpe:SIZE" learns a tokenizer from the training text; `tokenizer`, when not empty,
// is one to take instead of data.tokenizer (a file or folder: that of the run to resume). Throws Error, and
// Interrupted when the program is asked to stop.
TrainingData load_training_data(const DataConfig& config, const std::filesystem::path& tokenizer,
                                ThreadPool& pool);

}  // namespace harmonic
