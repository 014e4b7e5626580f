// Whole documents, packed.
#include <algorithm>
#include <numeric>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/random.h"
#include "harmonic/data/loader_kinds.h"

namespace harmonic {
namespace {

// A piece is a document of at most T tokens, or one of the parts of T of a longer one. An epoch is a
// permutation of the pieces, cut greedily into sequences; how many sequences that gives differs from epoch to
// epoch, so the epochs before a step must each have been counted once (remembered, or counted anew after a
// restart).
class DocumentLoader : public Loader {
 public:
  DocumentLoader(TokenCorpus corpus, const LoaderConfig& config)
      : corpus_(std::move(corpus)), config_(config), sequences_before_{0} {
    first_piece_.reserve(static_cast<size_t>(corpus_.documents()) + 1);
    first_piece_.push_back(0);
    for (int64_t d = 0; d < corpus_.documents(); ++d)
      first_piece_.push_back(first_piece_.back() + ceil_div(corpus_.document_length(d), config_.seq_len));
    order_.resize(static_cast<size_t>(first_piece_.back()));
  }

  const Batch& next(int64_t step) override {
    HARMONIC_ASSERT(step >= 0);
    const int64_t first = checked_mul(step, config_.batch_size, "step");
    batch_.clear();
    for (int64_t b = 0; b < config_.batch_size; ++b) add_sequence(checked_add(first, b, "step"));
    return batch_;
  }

 private:
  struct Piece {
    int64_t position, count;
  };
  Piece piece(int64_t index) const {
    const auto after = std::upper_bound(first_piece_.begin(), first_piece_.end(), index);
    const int64_t document = after - first_piece_.begin() - 1;
    const int64_t skipped = (index - first_piece_[static_cast<size_t>(document)]) * config_.seq_len;
    return {corpus_.document_begin(document) + skipped,
            std::min(config_.seq_len, corpus_.document_length(document) - skipped)};
  }

  void add_sequence(int64_t sequence) {
    while (sequences_before_.back() <= sequence) lay_out(static_cast<int64_t>(sequences_before_.size()) - 1);
    const auto after = std::upper_bound(sequences_before_.begin(), sequences_before_.end(), sequence);
    const int64_t epoch = after - sequences_before_.begin() - 1;
    if (epoch != epoch_) lay_out(epoch);
    const auto within = static_cast<size_t>(sequence - sequences_before_[static_cast<size_t>(epoch)]);
    batch_.add_sequence();
    for (int64_t at = sequence_begin_[within]; at < sequence_begin_[within + 1]; ++at) {
      const Piece one = piece(order_[static_cast<size_t>(at)]);
      batch_.append(corpus_, one.position, one.count, false, false);
    }
  }

  // Draws the order of an epoch (Fisher and Yates's shuffle) and cuts it into sequences.
  void lay_out(int64_t epoch) {
    std::iota(order_.begin(), order_.end(), int64_t{0});
    const Random random(config_.seed, stream_of("data.documents") + static_cast<uint64_t>(epoch));
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.below(i, i)]);
    sequence_begin_.assign(1, 0);
    int64_t held = 0;
    for (size_t at = 0; at < order_.size(); ++at) {
      const int64_t count = piece(order_[at]).count;
      if (held + count > config_.seq_len) {
        sequence_begin_.push_back(static_cast<int64_t>(at));
        held = 0;
      }
      held += count;
    }
    sequence_begin_.push_back(static_cast<int64_t>(order_.size()));
    if (static_cast<size_t>(epoch) + 1 == sequences_before_.size())
      sequences_before_.push_back(sequences_before_.back() + static_cast<int64_t>(sequence_begin_.size()) -
                                  1);
    epoch_ = epoch;
  }

  TokenCorpus corpus_;
  LoaderConfig config_;
  std::vector<int64_t> first_piece_;       // of document d; [documents + 1]
  std::vector<int64_t> sequences_before_;  // epoch e; of all epochs laid out so far, and one more
  int64_t epoch_ = -1;                     // the one that order_ and sequence_begin_ belong to
  std::vector<int64_t> order_, sequence_begin_;
  Batch batch_;
};

}  // namespace

std::unique_ptr<Loader> make_document_loader(TokenCorpus corpus, const LoaderConfig& config) {
  return std::make_unique<DocumentLoader>(std::move(corpus), config);
}

}  // namespace harmonic
