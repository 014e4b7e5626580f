// Contiguous streams that carry their state.
#include <algorithm>

#include "harmonic/base/error.h"
#include "harmonic/data/loader_kinds.h"

namespace harmonic {
namespace {

class StreamLoader : public Loader {
 public:
  StreamLoader(TokenCorpus corpus, const LoaderConfig& config) : corpus_(std::move(corpus)), config_(config) {
    if (corpus_.targets() < config_.batch_size)
      fail("the corpus has {} tokens, too few for {} streams; give more text or a smaller batch_size",
           corpus_.tokens(), config_.batch_size);
  }

  const Batch& next(int64_t step) override {
    HARMONIC_ASSERT(step >= 0);
    batch_.clear();
    for (int64_t b = 0; b < config_.batch_size; ++b) {
      batch_.add_sequence();
      int64_t position = position_of(b, step);
      bool continues = step > 0;
      for (int64_t left = config_.seq_len; left > 0;) {
        const int64_t count = std::min(left, corpus_.targets() - position);
        batch_.append(corpus_, position, count, continues, true);
        left -= count;
        position = 0;  // a document start: the state begins anew
        continues = false;
      }
    }
    return batch_;
  }

 private:
  int64_t position_of(int64_t stream, int64_t step) const {
    using Wide = unsigned __int128;
    const auto size = static_cast<Wide>(corpus_.targets());
    const Wide start = size * static_cast<Wide>(stream) / static_cast<Wide>(config_.batch_size);
    return static_cast<int64_t>((start + static_cast<Wide>(step) * static_cast<Wide>(config_.seq_len)) %
                                size);
  }

  TokenCorpus corpus_;
  LoaderConfig config_;
  Batch batch_;
};

}  // namespace

std::unique_ptr<Loader> make_stream_loader(TokenCorpus corpus, const LoaderConfig& config) {
  return std::make_unique<StreamLoader>(std::move(corpus), config);
}

}  // namespace harmonic
