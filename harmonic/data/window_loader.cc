// Windows at random positions of the stream.
#include <algorithm>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/random.h"
#include "harmonic/data/loader_kinds.h"

namespace harmonic {
namespace {

class WindowLoader : public Loader {
 public:
  WindowLoader(TokenCorpus corpus, const LoaderConfig& config)
      : corpus_(std::move(corpus)), config_(config), random_(config.seed, stream_of("data.windows")) {
    const int64_t length = config_.seq_len;
    starts_ = corpus_.targets() - length + 1;
    if (starts_ < 1)
      fail(
          "the corpus has {} tokens, fewer than one window of {} and its target; give more text or a smaller "
          "seq_len",
          corpus_.tokens(), length);
    if (!config_.within_document) return;
    starts_before_.reserve(static_cast<size_t>(corpus_.documents()) + 1);
    starts_before_.push_back(0);
    for (int64_t d = 0; d < corpus_.documents(); ++d) {
      const int64_t begin = corpus_.document_begin(d), size = corpus_.document_length(d);
      short_documents_ += size < length;
      const int64_t of_this =
          size >= length ? size - length + 1 : std::clamp<int64_t>(starts_ - begin, 0, size);
      starts_before_.push_back(starts_before_.back() + of_this);
    }
  }

  const Batch& next(int64_t step) override {
    HARMONIC_ASSERT(step >= 0);
    batch_.clear();
    for (int64_t b = 0; b < config_.batch_size; ++b) {
      const auto index =
          static_cast<uint64_t>(checked_add(checked_mul(step, config_.batch_size, "step"), b, "step"));
      batch_.add_sequence();
      batch_.append(corpus_, start(index), config_.seq_len, false, !config_.within_document);
    }
    return batch_;
  }

  std::string remark() const override {
    if (short_documents_ == 0) return {};
    return fmt::format(
        "{} of {} documents are shorter than seq_len = {} and are joined with those that follow, "
        "without a reset",
        short_documents_, corpus_.documents(), config_.seq_len);
  }

 private:
  int64_t start(uint64_t index) const {
    if (!config_.within_document)
      return static_cast<int64_t>(random_.below(index, static_cast<uint64_t>(starts_)));
    const auto pick =
        static_cast<int64_t>(random_.below(index, static_cast<uint64_t>(starts_before_.back())));
    const auto after = std::upper_bound(starts_before_.begin(), starts_before_.end(), pick);
    const int64_t document = after - starts_before_.begin() - 1;
    return corpus_.document_begin(document) + pick - starts_before_[static_cast<size_t>(document)];
  }

  TokenCorpus corpus_;
  LoaderConfig config_;
  Random random_;
  int64_t starts_ = 0;                  // positions where a window fits into the stream
  std::vector<int64_t> starts_before_;  // within_document: the same, in documents before d; [documents + 1]
  int64_t short_documents_ = 0;
  Batch batch_;
};

}  // namespace

std::unique_ptr<Loader> make_window_loader(TokenCorpus corpus, const LoaderConfig& config) {
  return std::make_unique<WindowLoader>(std::move(corpus), config);
}

}  // namespace harmonic
