#include "harmonic/data/evaluation_windows.h"

#include <algorithm>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"

namespace harmonic {

EvaluationState evaluation_state_of(std::string_view name) {
  if (name == "cold") return EvaluationState::cold;
  if (name == "carry") return EvaluationState::carry;
  fail_usage("unknown evaluation state \"{}\"; expected cold or carry", name);
}

EvaluationWindows::EvaluationWindows(TokenCorpus corpus, int64_t length, EvaluationState state,
                                     int64_t batch_size)
    : corpus_(std::move(corpus)), length_(length), batch_size_(batch_size), state_(state) {
  if (length < 1) fail_usage("evaluation length is {}; at least 1 was expected", length);
  if (batch_size < 1) fail_usage("evaluation batch size is {}; at least 1 was expected", batch_size);
  checked_mul(length, batch_size, "evaluation length x batch size");
  if (state_ == EvaluationState::carry) {
    // Each lane begins at the first document start at or after its even share.
    for (int64_t lane = 0; lane < batch_size_; ++lane) {
      const auto share = static_cast<int64_t>(static_cast<__int128>(corpus_.targets()) * lane / batch_size_);
      const int64_t document = corpus_.document_at(share);
      const bool at_start = corpus_.document_begin(document) == share;
      lane_begin_.push_back(at_start ? share : corpus_.document_begin(document + 1));
    }
    lane_begin_.push_back(corpus_.targets());
  }
  restart();
}

void EvaluationWindows::restart() {
  if (state_ == EvaluationState::cold) {
    position_.assign(1, 0);
  } else {
    position_.assign(lane_begin_.begin(), lane_begin_.end() - 1);
  }
}

const Batch* EvaluationWindows::next() {
  batch_.clear();
  for (int64_t b = 0; b < batch_size_; ++b) {
    const bool cold = state_ == EvaluationState::cold;
    int64_t& position = cold ? position_.front() : position_[static_cast<size_t>(b)];
    const int64_t end = cold ? corpus_.targets() : lane_begin_[static_cast<size_t>(b) + 1];
    if (position == end && cold) break;
    batch_.add_sequence();
    if (position == end) continue;
    const int64_t count = std::min(length_, end - position);
    batch_.append(corpus_, position, count, !cold, true);
    position += count;
  }
  return batch_.rows() > 0 ? &batch_ : nullptr;
}

}  // namespace harmonic
