#include "harmonic/train/backpropagation.h"

#include <algorithm>

#include "harmonic/base/checked.h"

namespace harmonic {
namespace {

constexpr int64_t kRowGrain = 64;  // chunks are multiples of this, but for the last

Tensor row_of(const std::vector<int32_t>& values, int64_t begin, int64_t count) {
  return {const_cast<int32_t*>(values.data()) + begin, 1, count, count, DType::i32, Device::cpu};
}

}  // namespace

// Rows [begin, begin + rows) of a batch, within one sequence, and its segments there.
struct Backpropagation::Piece {
  int64_t begin = 0;
  Segments segments;
  bool enters = false;  // the first segment starts from a state that comes from before
  bool leaves = false;  // the last segment goes on after the piece
};

Backpropagation::Backpropagation(Model& model, ThreadPool& pool, int64_t memory_bytes, int64_t chunk_len,
                                 int64_t kept_states)
    : model_(model), context_{pool, scratch_}, kept_states_(kept_states) {
  // What a row takes is measured, not computed: allocation depends on the configuration alone. The gradients
  // that reach the activations are all zero, so that the parameters' come out as they were: zero.
  constexpr int64_t kRows = 1024;
  const std::vector<int32_t> tokens(kRows, 0);
  const int64_t offsets[2] = {0, kRows};
  {
    Tape tape(model_.backend(), context_, activations_, &gradients_);
    const States states = make_states(1);
    Step step(tape, {offsets, 1}, states.in, states.out, states.d_out, states.d_in);
    model_.forward(step, row_of(tokens, 0, kRows));
    tape.backward();
    bytes_per_row_ = ceil_div(activations_.in_use() + gradients_.peak(), kRows);
  }
  activations_.clear();
  clear_gradients();
  chunk_rows_ =
      chunk_len > 0 ? chunk_len : std::max(kRowGrain, memory_bytes / bytes_per_row_ / kRowGrain * kRowGrain);
}

void Backpropagation::clear_gradients() {
  for (size_t i = 0; i < model_.parameters().size(); ++i) {
    const Tensor& grad = model_.parameters()[i].grad;
    std::memset(grad.data, 0, static_cast<size_t>(grad.size() * size_of(grad.dtype)));
  }
}

LossSum Backpropagation::run(const Batch& batch, const StateRows& carried, double loss_scale) {
  HARMONIC_ASSERT(!carried || carried.count == batch.sequences);
  const auto segments = static_cast<int64_t>(batch.segments.size());
  const auto sequence = [&](int64_t s) { return batch.segments[static_cast<size_t>(s)].sequence; };
  const auto offset = [&](int64_t s) { return batch.offsets[static_cast<size_t>(s)]; };
  LossSum sum;
  int64_t first = 0;
  while (first < segments) {
    // Whole sequences, as many as fit; always at least one.
    int64_t last = first;
    while (last < segments) {
      int64_t next = last;
      while (next < segments && sequence(next) == sequence(last)) ++next;
      if (last > first && offset(next) - offset(first) > chunk_rows_) break;
      last = next;
    }
    const bool fits = offset(last) - offset(first) <= chunk_rows_;
    const LossSum part = fits ? together(batch, first, last, carried, loss_scale)
                              : in_chunks(batch, first, last, carried, loss_scale);
    sum.nats += part.nats;
    sum.targets += part.targets;
    first = last;
  }
  return sum;
}

LossSum Backpropagation::record_and_return(const Batch& batch, int64_t begin, const Segments& segments,
                                           const States& states, double loss_scale) {
  Tape tape(model_.backend(), context_, activations_, &gradients_);
  Step step(tape, segments, states.in, states.out, states.d_out, states.d_in);
  const int64_t rows = segments.rows();
  const Variable hidden = model_.forward(step, row_of(batch.tokens, begin, rows));
  const Tensor targets = row_of(batch.targets, begin, rows);
  const Tensor losses = activations_.tensor(1, rows, model_.backend().dtype);
  linear_cross_entropy(tape, hidden, model_.head(), targets, losses, loss_scale);
  tape.backward();
  LossSum sum;
  for (int64_t r = 0; r < rows; ++r) {
    sum.nats += losses.dtype == DType::f64 ? losses.as<double>()[r] : losses.as<float>()[r];
    sum.targets += targets.as<int32_t>()[r] >= 0;
  }
  return sum;
}

Backpropagation::States Backpropagation::make_states(int64_t count) {
  const auto make = [&] { return make_state_rows(activations_, model_.state_layout(), count); };
  return {make(), make(), make(), make()};
}

LossSum Backpropagation::together(const Batch& batch, int64_t first_segment, int64_t last_segment,
                                  const StateRows& carried, double loss_scale) {
  activations_.clear();
  const int64_t begin = batch.offsets[static_cast<size_t>(first_segment)];
  const int64_t count = last_segment - first_segment;
  auto* offsets = activations_.allocate_array<int64_t>(count + 1);
  for (int64_t s = 0; s <= count; ++s)
    offsets[s] = batch.offsets[static_cast<size_t>(first_segment + s)] - begin;
  const States states = make_states(count);
  const auto bytes = static_cast<size_t>(model_.state_layout().bytes());
  for (int64_t s = 0; carried && s < count; ++s) {
    const Batch::Segment& segment = batch.segments[static_cast<size_t>(first_segment + s)];
    if (segment.continues) std::memcpy(states.in.row(s), carried.row(segment.sequence), bytes);
  }
  const LossSum sum = record_and_return(batch, begin, {offsets, count}, states, loss_scale);
  // The last segment of a sequence leaves its state: later ones overwrite earlier ones.
  for (int64_t s = 0; carried && s < count; ++s)
    std::memcpy(carried.row(batch.segments[static_cast<size_t>(first_segment + s)].sequence),
                states.out.row(s), bytes);
  return sum;
}

Backpropagation::Piece Backpropagation::piece(const Batch& batch, int64_t begin, int64_t end) {
  const auto at_or_before = std::upper_bound(batch.offsets.begin(), batch.offsets.end(), begin) - 1;
  auto first = at_or_before - batch.offsets.begin();
  Piece result;
  result.begin = begin;
  result.enters = *at_or_before < begin || batch.segments[static_cast<size_t>(first)].continues;
  int64_t count = 0;
  while (batch.offsets[static_cast<size_t>(first + count)] < end) ++count;
  auto* offsets = activations_.allocate_array<int64_t>(count + 1);
  offsets[0] = 0;
  for (int64_t s = 1; s <= count; ++s)
    offsets[s] = std::min(end, batch.offsets[static_cast<size_t>(first + s)]) - begin;
  result.segments = {offsets, count};
  result.leaves = batch.offsets[static_cast<size_t>(first + count)] > end;
  return result;
}

void Backpropagation::forward(const Batch& batch, const Piece& piece, const char* state_before,
                              char* state_after) {
  const StateLayout& layout = model_.state_layout();
  const auto bytes = static_cast<size_t>(layout.bytes());
  const StateRows in = make_state_rows(activations_, layout, piece.segments.count);
  const StateRows out = make_state_rows(activations_, layout, piece.segments.count);
  if (piece.enters) std::memcpy(in.row(0), state_before, bytes);
  Tape tape(model_.backend(), context_, activations_, nullptr);
  Step step(tape, piece.segments, in, out);
  model_.forward(step, row_of(batch.tokens, piece.begin, piece.segments.rows()));
  std::memcpy(state_after, out.row(out.count - 1), bytes);
}

LossSum Backpropagation::in_chunks(const Batch& batch, int64_t first_segment, int64_t last_segment,
                                   const StateRows& carried, double loss_scale) {
  const StateLayout& layout = model_.state_layout();
  const auto bytes = static_cast<size_t>(layout.bytes());
  const int64_t begin = batch.offsets[static_cast<size_t>(first_segment)];
  const int64_t end = batch.offsets[static_cast<size_t>(last_segment)];
  const int64_t chunks = ceil_div(end - begin, chunk_rows_);
  const auto chunk_begin = [&](int64_t c) { return begin + c * chunk_rows_; };
  const auto chunk_end = [&](int64_t c) { return std::min(end, begin + (c + 1) * chunk_rows_); };

  // Two tiers of kept states: before every group of chunks, and before every chunk of the group at hand.
  int64_t group = 1;
  while (ceil_div(chunks, group) + group > kept_states_ && group * group < chunks) ++group;
  const int64_t groups = ceil_div(chunks, group);
  states_.clear();
  const StateRows at_group = make_state_rows(states_, layout, groups);
  const StateRows at_chunk = make_state_rows(states_, layout, group);
  const StateRows now = make_state_rows(states_, layout, 1);
  const StateRows d_next = make_state_rows(states_, layout, 1);

  const auto step_forward = [&](int64_t c) {
    activations_.clear();
    forward(batch, piece(batch, chunk_begin(c), chunk_end(c)), now.row(0), now.row(0));
  };

  const int64_t sequence = batch.segments[static_cast<size_t>(first_segment)].sequence;
  if (carried) std::memcpy(now.row(0), carried.row(sequence), bytes);
  for (int64_t c = 0; c + 1 < chunks || (c < chunks && c % group == 0); ++c) {
    if (c % group == 0) std::memcpy(at_group.row(c / group), now.row(0), bytes);
    if (c + 1 < chunks) step_forward(c);
  }

  LossSum sum;
  bool gradient_enters = false;  // from the chunk after the one at hand
  for (int64_t g = groups; g-- > 0;) {
    const int64_t first = g * group, last = std::min(chunks, first + group);
    std::memcpy(now.row(0), at_group.row(g), bytes);
    for (int64_t c = first; c < last; ++c) {
      std::memcpy(at_chunk.row(c - first), now.row(0), bytes);
      if (c + 1 < last) step_forward(c);
    }
    for (int64_t c = last; c-- > first;) {
      activations_.clear();
      const Piece chunk = piece(batch, chunk_begin(c), chunk_end(c));
      const int64_t count = chunk.segments.count;
      const States states = make_states(count);
      if (chunk.enters) std::memcpy(states.in.row(0), at_chunk.row(c - first), bytes);
      if (chunk.leaves && gradient_enters) std::memcpy(states.d_out.row(count - 1), d_next.row(0), bytes);
      const LossSum part = record_and_return(batch, chunk.begin, chunk.segments, states, loss_scale);
      gradient_enters = chunk.enters;
      std::memcpy(d_next.row(0), states.d_in.row(0), bytes);
      if (c + 1 == chunks && carried) std::memcpy(carried.row(sequence), states.out.row(count - 1), bytes);
      sum.nats += part.nats;
      sum.targets += part.targets;
    }
  }
  return sum;
}

}  // namespace harmonic
