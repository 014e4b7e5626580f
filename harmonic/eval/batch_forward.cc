#include "harmonic/eval/batch_forward.h"

#include <algorithm>

#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace {

// Of texts that are seen whole. What a text that is cut has in caches is kept, and there is one of it.
PassCost measure(Inference& inference) {
  return measure_pass_cost(inference.model(), [&](const Batch& batch, int64_t position) {
    Arena memory;
    const BatchPiece piece = piece_of(batch, 0, batch.rows(), memory);
    const auto make = [&] {
      return make_state_rows_without_caches(memory, inference.model().state_layout(), piece.segments.count);
    };
    const StateRows in = make(), out = make();
    for (int64_t s = 0; s < in.count; ++s) in.position(s) = static_cast<uint64_t>(position);
    inference.losses(inference.hidden(batch.tokens.data(), piece.segments, in, out), batch.targets.data());
    return memory.in_use() + inference.memory_in_use();
  });
}

}  // namespace

BatchForward::BatchForward(Inference& inference) : inference_(inference), cost_(measure(inference)) {}

int64_t BatchForward::sequences_a_pass(int64_t length) const {
  return std::min(kRowsPerPass / length, cost_.of(kRowsPerPass, kTextsPerPass) / cost_.of(length, 1));
}

void BatchForward::carry_states(int64_t sequences) {
  kept_.clear();
  entering_ = {};
  left_ = make_fresh_state_rows(kept_, layout(), sequences);
}

void BatchForward::run(const Batch& batch, int64_t rows, const std::function<void(const Pass&)>& use) {
  const int64_t most_bytes = cost_.of(kRowsPerPass, kTextsPerPass);
  for (int64_t begin = 0; begin < rows;) {
    stop_if_interrupted();
    int64_t end = cost_.piece_end(batch, begin, std::min(rows, begin + kRowsPerPass), most_bytes);
    if (layout().has_caches()) end = end_for_caches(batch, begin, end);
    pass(batch, begin, end, use);
    begin = end;
  }
}

// Caches are large: a text that needs one, since it is cut or carried, goes alone, and its state is advanced
// where it lies; texts that are whole go together, without.
int64_t BatchForward::end_for_caches(const Batch& batch, int64_t begin, int64_t end) const {
  const auto next = std::upper_bound(batch.offsets.begin(), batch.offsets.end(), begin);
  const bool whole = *(next - 1) == begin && *next <= end;
  if (left_ || !whole) return std::min(end, *next);
  return *(std::upper_bound(next, batch.offsets.end(), end) - 1);
}

void BatchForward::pass(const Batch& batch, int64_t begin, int64_t end,
                        const std::function<void(const Pass&)>& use) {
  const ArenaScope scope(memory_);
  const BatchPiece piece = piece_of(batch, begin, end, memory_);
  const int64_t count = piece.segments.count;
  const auto segment = [&](int64_t s) -> const Batch::Segment& {
    return batch.segments[static_cast<size_t>(piece.first_segment + s)];
  };
  const bool cut = piece.cut_before || piece.cut_after;
  if (cut && !entering_) entering_ = make_fresh_state_rows(kept_, layout(), 1);
  StateRows in = make_state_rows_without_caches(memory_, layout(), count);
  const auto bytes = static_cast<size_t>(in.row_bytes);
  if (piece.cut_before) {
    std::memcpy(in.row(0), entering_.data, bytes);
  } else if (segment(0).continues) {
    std::memcpy(in.row(0), left_.row(segment(0).sequence), bytes);
  }
  for (int64_t s = 1; s < count; ++s)
    if (segment(s).continues) std::memcpy(in.row(s), left_.row(segment(s).sequence), bytes);
  auto* positions = memory_.allocate_array<int64_t>(count);
  for (int64_t s = 0; s < count; ++s) positions[s] = static_cast<int64_t>(in.position(s));

  StateRows out = make_state_rows_without_caches(memory_, layout(), count);
  if (layout().has_caches() && (cut || left_)) {
    HARMONIC_ASSERT(count == 1);
    const StateRows& kept = left_ ? left_ : entering_;
    in.caches = out.caches = kept.caches + (left_ ? segment(0).sequence : 0) * kept.cache_stride;
    in.cache_stride = out.cache_stride = kept.cache_stride;
  }
  const Tensor hidden = inference_.hidden(batch.tokens.data() + begin, piece.segments, in, out);
  if (piece.cut_after) std::memcpy(entering_.data, out.row(count - 1), bytes);
  for (int64_t s = 0; left_ && s < count; ++s) std::memcpy(left_.row(segment(s).sequence), out.row(s), bytes);
  use({begin, piece.segments, positions, hidden, memory_});
}

}  // namespace harmonic
