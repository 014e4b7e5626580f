#include "harmonic/eval/batch_forward.h"

#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace {

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

}  // namespace

BatchForward::BatchForward(Inference& inference)
    : inference_(inference), cost_(measure(inference)), entering_(make_state_rows(kept_, layout(), 1)) {}

int64_t BatchForward::sequences_a_pass(int64_t length) const {
  return std::min(kRowsPerPass / length, cost_.of(kRowsPerPass, kTextsPerPass) / cost_.of(length, 1));
}

void BatchForward::carry_states(int64_t sequences) {
  kept_.clear();
  entering_ = make_state_rows(kept_, layout(), 1);
  left_ = make_state_rows(kept_, layout(), sequences);
}

void BatchForward::run(const Batch& batch, int64_t rows, const std::function<void(const Pass&)>& use) {
  const int64_t most_bytes = cost_.of(kRowsPerPass, kTextsPerPass);
  for (int64_t begin = 0; begin < rows;) {
    stop_if_interrupted();
    const int64_t end = cost_.piece_end(batch, begin, std::min(rows, begin + kRowsPerPass), most_bytes);
    pass(batch, begin, end, use);
    begin = end;
  }
}

void BatchForward::pass(const Batch& batch, int64_t begin, int64_t end,
                        const std::function<void(const Pass&)>& use) {
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
  std::memcpy(entering_.data, out.row(count - 1), bytes);
  for (int64_t s = 0; left_ && s < count; ++s) std::memcpy(left_.row(segment(s).sequence), out.row(s), bytes);
  use({begin, piece.segments, in, hidden, memory_});
}

}  // namespace harmonic
