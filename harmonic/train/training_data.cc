#include "harmonic/train/training_data.h"

#include <algorithm>
#include <string_view>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/data/corpus_cache.h"
#include "harmonic/data/learned_tokenizer.h"

namespace harmonic {
namespace {

ReaderOptions reader_options(const DataConfig& config) {
  ReaderOptions options;
  options.format = document_format_of(config.format);
  options.json_field = config.text_field;
  return options;
}

void check_text(const DataConfig& config) {
  for (const std::string& input : config.train) {
    if (input == "-")
      fail_usage("data.tokenizer = \"{}\": standard input is read only once; name a file in data.train",
                 config.tokenizer);
    if (is_prepared_folder(input))
      fail_usage(
          "data.tokenizer = \"{}\": {} holds prepared tokens and no text; name the tokenizer that "
          "made them",
          config.tokenizer, input);
  }
}

std::unique_ptr<Tokenizer> trained_tokenizer(const DataConfig& config, ThreadPool& pool) {
  const int64_t size = config.learned_vocab_size();
  check_text(config);
  log("learning a tokenizer of {} tokens from the training text", size);
  return learn_tokenizer(config.train, reader_options(config), size, pool);
}

TokenCorpus load(std::string_view key, const std::vector<std::string>& inputs, const DataConfig& config,
                 const Tokenizer& tokenizer, ThreadPool& pool) {
  PrepareOptions options;
  options.reader = reader_options(config);
  TokenCorpus corpus = load_corpus(inputs, tokenizer, pool, options, {config.cache, config.cache_gb});
  stop_if_interrupted();
  log("{}: {} tokens, {} bytes in {} documents", key, corpus.targets(), corpus.source_bytes(),
      corpus.documents());
  return corpus;
}

}  // namespace

TrainingData load_training_data(const DataConfig& config, const std::filesystem::path& tokenizer,
                                ThreadPool& pool) {
  if (config.train.empty())
    fail_usage("no training data: name files or folders with --data, or in data.train of the configuration");
  if (std::count(config.train.begin(), config.train.end(), "-") +
          std::count(config.valid.begin(), config.valid.end(), "-") >
      1)
    fail_usage(
        "standard input (-) can be read only once; it is named more than once in data.train and "
        "data.valid");
  std::unique_ptr<Tokenizer> made;
  if (!tokenizer.empty()) {
    made = load_tokenizer(tokenizer);
  } else if (config.learned_vocab_size() > 0) {
    made = trained_tokenizer(config, pool);
  } else {
    made = load_tokenizer(config.tokenizer);
  }
  TokenCorpus train = load("data.train", config.train, config, *made, pool);
  std::optional<TokenCorpus> valid;
  if (!config.valid.empty()) valid = load("data.valid", config.valid, config, *made, pool);
  return {std::move(made), std::move(train), std::move(valid)};
}

}  // namespace harmonic
