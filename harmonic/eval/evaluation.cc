#include "harmonic/eval/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/eval/batch_pass.h"

namespace harmonic {
namespace {

// A pass takes no more memory than this: where there are more texts, each with its states, rows are fewer.
constexpr int64_t kRowsPerPass = 2 * Inference::kRowsPerCall, kTextsPerPass = 16;

PassCost measure(Inference& inference) {
  return measure_pass_cost(inference.model(), [&](const Batch& batch, int64_t position) {
    Arena memory;
    const BatchPiece piece = piece_of(batch, 0, batch.rows(), memory);
    const StateRows in = make_state_rows(memory, inference.model().state_layout(), piece.segments.count);
    const StateRows out = make_state_rows(memory, inference.model().state_layout(), piece.segments.count);
    for (int64_t s = 0; s < in.count; ++s) in.position(s) = static_cast<uint64_t>(position);
    inference.losses(inference.hidden(batch.tokens.data(), piece.segments, in, out), batch.targets.data());
    return memory.in_use() + inference.memory_in_use();
  });
}

// The states between calls: those that the sequences of a batch were left in, and that of a segment which was
// cut because a pass has only so much memory. All splits give the same bits.
class Scorer {
 public:
  Scorer(Inference& inference, const PassCost& cost, int64_t batch_size)
      : inference_(inference),
        cost_(cost),
        most_bytes_(cost.of(kRowsPerPass, kTextsPerPass)),
        left_(make_state_rows(kept_, layout(), batch_size)),
        entering_(make_state_rows(kept_, layout(), 1)) {}

  // Adds the losses of the first `most` targets of the batch; returns how many it had.
  int64_t score(const Batch& batch, int64_t most, ExactSum& nats) {
    int64_t scored = 0;
    const int64_t rows = std::min(batch.rows(), most);
    for (int64_t begin = 0; begin < rows;) {
      stop_if_interrupted();
      const int64_t end = cost_.piece_end(batch, begin, std::min(rows, begin + kRowsPerPass), most_bytes_);
      scored += pass(batch, begin, end, nats);
      begin = end;
    }
    return scored;
  }

 private:
  const StateLayout& layout() const { return inference_.model().state_layout(); }

  int64_t pass(const Batch& batch, int64_t begin, int64_t end, ExactSum& nats) {
    const ArenaScope scope(memory_);
    const BatchPiece piece = piece_of(batch, begin, end, memory_);
    const int64_t count = piece.segments.count;
    const StateRows in = make_state_rows(memory_, layout(), count);
    const StateRows out = make_state_rows(memory_, layout(), count);
    const auto bytes = static_cast<size_t>(layout().bytes());
    const auto segment = [&](int64_t s) -> const Batch::Segment& {
      return batch.segments[static_cast<size_t>(piece.first_segment + s)];
    };
    for (int64_t s = 0; s < count; ++s)
      if (segment(s).continues) std::memcpy(in.row(s), left_.row(segment(s).sequence), bytes);
    if (piece.cut_before) std::memcpy(in.row(0), entering_.data, bytes);
    const Tensor hidden = inference_.hidden(batch.tokens.data() + begin, piece.segments, in, out);
    const Tensor losses = inference_.losses(hidden, batch.targets.data() + begin);
    std::memcpy(entering_.data, out.row(count - 1), bytes);
    for (int64_t s = 0; s < count; ++s) std::memcpy(left_.row(segment(s).sequence), out.row(s), bytes);

    int64_t targets = 0;
    for (int64_t r = begin; r < end; ++r) {
      if (batch.targets[static_cast<size_t>(r)] < 0) continue;
      nats.add(number_at(losses, 0, r - begin));
      ++targets;
    }
    return targets;
  }

  Inference& inference_;
  PassCost cost_;
  int64_t most_bytes_;
  Arena kept_, memory_;
  StateRows left_, entering_;
};

}  // namespace

void ExactSum::add(double number) {
  constexpr double kLargest = 1 << 30;
  if (!(std::abs(number) < kLargest)) {
    broken_ = true;
    return;
  }
  units_ += static_cast<__int128>(std::nearbyint(std::ldexp(number, 40)));
}

double ExactSum::value() const {
  return broken_ ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(static_cast<double>(units_), -40);
}

EvaluationResult evaluate(Inference& inference, const TokenCorpus& corpus, const EvaluationOptions& options) {
  const PassCost cost = measure(inference);
  int64_t batch_size = options.batch_size;
  if (batch_size == 0) {
    const int64_t length = std::clamp<int64_t>(options.length, 1, kRowsPerPass);
    batch_size = std::min(kRowsPerPass / length, cost.of(kRowsPerPass, kTextsPerPass) / cost.of(length, 1));
  }
  // Lanes begin all over the split; its start comes first only in one lane.
  if (options.max_tokens > 0 && options.state == EvaluationState::carry) batch_size = 1;
  EvaluationWindows windows(corpus, options.length, options.state, batch_size);
  const int64_t all =
      options.max_tokens > 0 ? std::min(options.max_tokens, windows.targets()) : windows.targets();
  Scorer scorer(inference, cost, batch_size);
  ExactSum nats;
  EvaluationResult result;
  while (result.tokens < all) {
    const Batch* batch = windows.next();
    HARMONIC_ASSERT(batch);
    result.tokens += scorer.score(*batch, all - result.tokens, nats);
    if (options.show_progress)
      progress(fmt::format("evaluating: {:.0f} % of {} tokens",
                           100 * static_cast<double>(result.tokens) / static_cast<double>(all), all));
  }
  result.bits = nats.value() * kBitsPerNat;
  result.bytes =
      all == windows.targets()
          ? windows.source_bytes()
          : std::max<int64_t>(1, std::llround(static_cast<double>(all) * corpus.bytes_per_token()));
  return result;
}

}  // namespace harmonic
