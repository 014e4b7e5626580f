#include "harmonic/data/learned_tokenizer.h"

#include <string_view>

#include "harmonic/base/log.h"
#include "harmonic/tokenizer/bpe_trainer.h"

namespace harmonic {

std::unique_ptr<Tokenizer> learn_tokenizer(const std::vector<std::string>& inputs,
                                           const ReaderOptions& options, int64_t vocab_size,
                                           ThreadPool& pool) {
  // Documents are counted many at a time, so that the threads have something to share.
  constexpr size_t kBatchBytes = 1 << 24;
  BpeTrainer trainer(pool);
  DocumentSource source(inputs, options);
  std::vector<std::string> batch;
  size_t batch_bytes = 0;
  const auto count = [&] {
    trainer.add(std::vector<std::string_view>(batch.begin(), batch.end()));
    batch.clear();
    batch_bytes = 0;
  };
  int64_t left = kTokenizerTextBytes;
  for (std::string document; left > 0 && source.next(document);) {
    if (static_cast<int64_t>(document.size()) > left) document.resize(static_cast<size_t>(left));
    left -= static_cast<int64_t>(document.size());
    batch_bytes += document.size();
    batch.push_back(std::move(document));
    if (batch_bytes >= kBatchBytes) count();
  }
  count();
  auto tokenizer = trainer.train(vocab_size);
  log("a tokenizer of {} tokens, learned from {}{} bytes", tokenizer->vocab_size(),
      left > 0 ? "" : "the first ", kTokenizerTextBytes - left);
  return tokenizer;
}

}  // namespace harmonic
