#include "harmonic/autograd/tape.h"

#include <algorithm>
#include <utility>

#include "harmonic/base/checked.h"

namespace harmonic {

Tensor GradientPool::take(int64_t rows, int64_t cols, DType dtype) {
  const int64_t bytes = rows * cols * size_of(dtype);
  for (size_t i = free_.size(); i-- > 0;) {
    if (free_[i].bytes != bytes) continue;
    const Tensor free = free_[i].tensor;
    free_[i] = free_.back();
    free_.pop_back();
    return {free.data, rows, cols, cols, dtype, free.device};
  }
  return arena_.tensor(rows, cols, dtype);
}

void GradientPool::give_back(const Tensor& tensor) {
  free_.push_back({tensor.size() * size_of(tensor.dtype), tensor});
}

Tensor GradientPool::of(const Parameter& parameter) const {
  Tensor gradient = parameter.grad;
  if (gradient && copies_)
    gradient.data = static_cast<char*>(copies_.data) +
                    (static_cast<const char*>(gradient.data) - static_cast<const char*>(own_.data));
  return gradient;
}

void GradientPool::clear() {
  free_.clear();
  arena_.clear();
}

void GradientPool::release() {
  free_.clear();
  arena_.release();
}

Tape::~Tape() {
  if (gradients_) gradients_->clear();
}

Variable Tape::variable(int64_t rows, int64_t cols) { return variable(rows, cols, dtype()); }

Variable Tape::operand(int64_t rows, int64_t cols) {
  constexpr int64_t kFewRows = 64;
  const bool in_halves =
      backend_.device == Device::cuda && backend_.precision == Precision::bf16 && rows > kFewRows;
  return variable(rows, cols, in_halves ? DType::bf16 : dtype());
}

Variable Tape::variable(int64_t rows, int64_t cols, DType dtype) {
  // Rows of halves begin at multiples of 16 bytes, as the matrix units of a card want them.
  const int64_t width = dtype == DType::bf16 ? round_up(cols, 8) : cols;
  Variable result{memory_.tensor(rows, width, dtype)};
  result.value.cols = cols;
  if (recording()) result.node = new (memory_.allocate(sizeof(GradientNode))) GradientNode{rows, cols, {}};
  return result;
}

namespace {

Tensor slice(const Variable& variable) {
  return variable.node->gradient.columns(variable.column, variable.value.cols);
}

bool touches(const GradientNode& node, int64_t begin, int64_t end) {
  return std::any_of(node.reached, node.reached + node.runs,
                     [&](const GradientNode::Columns& run) { return run.begin < end && begin < run.end; });
}

int64_t end_of(const Variable& variable) { return variable.column + variable.value.cols; }

}  // namespace

GradientNode& Tape::node_with_memory(const Variable& variable) {
  GradientNode& node = *variable.node;
  if (!node.gradient) {
    node.gradient = gradients_->take(node.rows, node.cols, dtype());
    node.runs = 0;
  }
  return node;
}

void Tape::mark_reached(GradientNode& node, int64_t begin, int64_t end) {
  GradientNode::Columns runs[GradientNode::kMostRuns + 1];
  int count = 0;
  GradientNode::Columns merged = {begin, end};
  bool placed = false;
  for (int i = 0; i < node.runs; ++i) {
    const GradientNode::Columns& run = node.reached[i];
    if (run.end >= merged.begin && merged.end >= run.begin) {
      merged = {std::min(run.begin, merged.begin), std::max(run.end, merged.end)};
      continue;
    }
    if (!placed && merged.end < run.begin) {
      runs[count++] = merged;
      placed = true;
    }
    runs[count++] = run;
  }
  if (!placed) runs[count++] = merged;
  if (count > GradientNode::kMostRuns) {
    fill_gaps(node, 0, node.cols);
    return;
  }
  std::copy_n(runs, count, node.reached);
  node.runs = count;
}

void Tape::fill_gaps(GradientNode& node, int64_t begin, int64_t end) {
  int64_t at = begin;
  for (int i = 0; i < node.runs && at < end; ++i) {
    const GradientNode::Columns& run = node.reached[i];
    if (run.end <= at) continue;
    if (run.begin > at) backend_.zero(node.gradient.columns(at, std::min(run.begin, end) - at));
    at = run.end;
  }
  if (at < end) backend_.zero(node.gradient.columns(at, end - at));
  mark_reached(node, begin, end);
}

Tensor Tape::gradient(const Variable& variable) {
  fill_gaps(node_with_memory(variable), variable.column, end_of(variable));
  return slice(variable);
}

Gradient Tape::contribute(const Variable& variable) {
  if (!variable.node) return {};
  GradientNode& node = node_with_memory(variable);
  const bool add = touches(node, variable.column, end_of(variable));
  if (add) {
    fill_gaps(node, variable.column, end_of(variable));
  } else {
    mark_reached(node, variable.column, end_of(variable));
  }
  return {slice(variable), add};
}

Tensor Tape::overwrite(const Variable& variable) {
  HARMONIC_ASSERT(variable.node);
  const Gradient gradient = contribute(variable);
  HARMONIC_ASSERT(!gradient.add);
  return gradient.to;
}

void Tape::pass(const Variable& from, const Variable& to) {
  if (!to.node) return;
  HARMONIC_ASSERT(from.column == 0 && to.column == 0 && same_shape(from.value, to.value));
  const Tensor passed = gradient(from);
  if (to.node->gradient) {
    const Tensor sum = gradient(to);
    run(Add{sum, passed, sum});
  } else {
    to.node->gradient = passed;
    to.node->runs = 0;
    mark_reached(*to.node, 0, to.node->cols);
    from.node->gradient = {};
  }
}

void Tape::backward() {
  for (Entry* entry = std::exchange(last_, nullptr); entry; entry = entry->previous) {
    entry->call(entry->function, *this);
    if (!entry->output || !entry->output->gradient) continue;
    gradients_->give_back(entry->output->gradient);
    entry->output->gradient = {};
  }
}

}  // namespace harmonic
