#include "harmonic/model/inference.h"

#include <algorithm>

namespace harmonic {
namespace {

Tensor row_of(const int32_t* values, int64_t count) {
  return {const_cast<int32_t*>(values), 1, count, count, DType::i32, Device::cpu};
}

}  // namespace

// Rows that the backend reaches, with the same contents: these themselves where it reaches them.
StateRows Inference::within_reach(const StateRows& rows) {
  if (rows.source == model_.backend().memory) return rows;
  StateRows reached = rows.caches
                          ? make_state_rows(memory_, model_.state_layout(), rows.count)
                          : make_state_rows_without_caches(memory_, model_.state_layout(), rows.count);
  copy_state_rows(rows, reached);
  return reached;
}

Tensor Inference::hidden(const int32_t* tokens, const Segments& segments, const StateRows& in,
                         const StateRows& out) {
  memory_.clear();
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const bool in_place = in.data == out.data, in_reach = out.source == model_.backend().memory;
  const StateRows before = within_reach(in);
  StateRows after = out;
  if (in_place || !in_reach) {
    // Numbers are copied; caches, which may be large, are added to where they lie.
    after = make_state_rows_without_caches(memory_, model_.state_layout(), segments.count);
    after.caches = before.caches;
    after.cache_stride = before.cache_stride;
  }
  Step step(tape, segments, before, after);
  const Variable result = model_.forward(step, row_of(tokens, segments.rows()));
  tape.synchronize();
  if (!in_reach) {
    copy_state_rows(after, out);
  } else if (in_place) {
    for (int64_t b = 0; b < segments.count; ++b)
      std::memcpy(out.row(b), after.row(b), static_cast<size_t>(after.layout->bytes_before_caches()));
  }
  after_hidden_ = memory_.mark();
  return result.value;
}

Tensor Inference::logits(const Tensor& hidden) {
  memory_.rewind(after_hidden_);
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const Tensor logits = model_.logits(tape, hidden);
  tape.synchronize();
  return logits;
}

Tensor Inference::losses(const Tensor& hidden, const int32_t* targets) {
  memory_.rewind(after_hidden_);
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const Tensor losses = memory_.tensor(1, hidden.rows, model_.backend().dtype, MemoryUse::shared);
  linear_cross_entropy(tape, {hidden}, model_.head(), row_of(targets, hidden.rows), losses, 1);
  tape.synchronize();
  return losses;
}

// Calls use(begin, hidden) for tokens [begin, begin + hidden.rows) of the text, piece by piece.
template <typename Use>
void Inference::feed(State& state, const int32_t* tokens, int64_t count, const Use& use) {
  const StateLayout& layout = model_.state_layout();
  // Where there are no caches, which stay where they are, the state after is written into another block, and
  // the two change places: nothing is copied.
  const bool changes_place = !layout.has_caches();
  if (changes_place && spare_.bytes() == 0) spare_ = State(layout);
  for (int64_t begin = 0; begin < count; begin += kRowsPerCall) {
    const int64_t offsets[2] = {0, std::min(count - begin, kRowsPerCall)};
    const Tensor rows = hidden(tokens + begin, {offsets, 1}, StateRows(state, layout),
                               StateRows(changes_place ? spare_ : state, layout));
    if (changes_place) std::swap(state, spare_);
    use(begin, rows);
  }
}

Tensor Inference::advance(State& state, const int32_t* tokens, int64_t count) {
  HARMONIC_ASSERT(count > 0);
  Tensor last;
  feed(state, tokens, count, [&](int64_t begin, const Tensor& rows) {
    if (begin + rows.rows == count) last = logits(rows.rows_of(rows.rows - 1, 1));
  });
  return last;
}

void Inference::score(State& state, const int32_t* text, int64_t count, std::vector<double>& bits) {
  feed(state, text, count, [&](int64_t begin, const Tensor& rows) {
    const Tensor nats = losses(rows, text + begin + 1);
    for (int64_t r = 0; r < nats.cols; ++r) bits.push_back(number_at(nats, 0, r) * kBitsPerNat);
  });
}

double number_at(const Tensor& tensor, int64_t row, int64_t column) {
  return tensor.dtype == DType::f64 ? tensor.row<double>(row)[column] : tensor.row<float>(row)[column];
}

}  // namespace harmonic
