#include "harmonic/model/inference.h"

#include <algorithm>

namespace harmonic {
namespace {

Tensor row_of(const int32_t* values, int64_t count) {
  return {const_cast<int32_t*>(values), 1, count, count, DType::i32, Device::cpu};
}

}  // namespace

Tensor Inference::hidden(const int32_t* tokens, const Segments& segments, const StateRows& in,
                         const StateRows& out) {
  memory_.clear();
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const StateRows after =
      in.data == out.data ? make_state_rows(memory_, model_.state_layout(), segments.count) : out;
  Step step(tape, segments, in, after);
  const Variable result = model_.forward(step, row_of(tokens, segments.rows()));
  if (in.data == out.data)
    std::memcpy(out.data, after.data, static_cast<size_t>(segments.count * model_.state_layout().bytes()));
  return result.value;
}

Tensor Inference::logits(const Tensor& hidden) {
  Tape tape(model_.backend(), context_, memory_, nullptr);
  return model_.logits(tape, hidden);
}

Tensor Inference::losses(const Tensor& hidden, const int32_t* targets) {
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const Tensor losses = memory_.tensor(1, hidden.rows, model_.backend().dtype);
  linear_cross_entropy(tape, {hidden}, model_.head(), row_of(targets, hidden.rows), losses, 1);
  return losses;
}

Tensor Inference::advance(State& state, const int32_t* tokens, int64_t count) {
  HARMONIC_ASSERT(count > 0);
  const StateRows row{static_cast<char*>(state.data()), 1, &model_.state_layout()};
  for (;;) {
    const int64_t piece = std::min(count, kRowsPerCall);
    const int64_t offsets[2] = {0, piece};
    const Tensor rows = hidden(tokens, {offsets, 1}, row, row);
    tokens += piece;
    count -= piece;
    if (count == 0) return logits(rows.rows_of(piece - 1, 1));
  }
}

double number_at(const Tensor& tensor, int64_t row, int64_t column) {
  return tensor.dtype == DType::f64 ? tensor.row<double>(row)[column] : tensor.row<float>(row)[column];
}

}  // namespace harmonic
