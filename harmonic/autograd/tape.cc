#include "harmonic/autograd/tape.h"

#include <cstring>
#include <utility>

namespace harmonic {

Tensor GradientPool::take(int64_t rows, int64_t cols, DType dtype) {
  const int64_t bytes = rows * cols * size_of(dtype);
  for (size_t i = free_.size(); i-- > 0;) {
    if (free_[i].bytes != bytes) continue;
    void* data = free_[i].data;
    free_[i] = free_.back();
    free_.pop_back();
    return {data, rows, cols, cols, dtype, Device::cpu};
  }
  return arena_.tensor(rows, cols, dtype);
}

void GradientPool::give_back(const Tensor& tensor) {
  free_.push_back({tensor.size() * size_of(tensor.dtype), tensor.data});
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

Variable Tape::variable(int64_t rows, int64_t cols) {
  Variable result{memory_.tensor(rows, cols, dtype())};
  if (recording()) result.node = new (memory_.allocate(sizeof(GradientNode))) GradientNode{rows, cols, {}};
  return result;
}

namespace {

Tensor slice(const Variable& variable) {
  return variable.node->gradient.columns(variable.column, variable.value.cols);
}

void fill_zero(const Tensor& tensor) {
  std::memset(tensor.data, 0, static_cast<size_t>(tensor.size() * size_of(tensor.dtype)));
}

}  // namespace

Tensor Tape::gradient(const Variable& variable) {
  GradientNode& node = *variable.node;
  if (!node.gradient) {
    node.gradient = gradients_->take(node.rows, node.cols, dtype());
    fill_zero(node.gradient);
  }
  return slice(variable);
}

Gradient Tape::contribute(const Variable& variable) {
  if (!variable.node) return {};
  GradientNode& node = *variable.node;
  if (!node.gradient) {
    node.gradient = gradients_->take(node.rows, node.cols, dtype());
    if (variable.value.cols == node.cols) return {node.gradient, false};
    fill_zero(node.gradient);
  }
  return {slice(variable), true};
}

Tensor Tape::overwrite(const Variable& variable) {
  HARMONIC_ASSERT(variable.node && (variable.value.cols != variable.node->cols || !variable.node->gradient));
  return contribute(variable).to;
}

void Tape::pass(const Variable& from, const Variable& to) {
  if (!to.node) return;
  HARMONIC_ASSERT(from.column == 0 && to.column == 0 && same_shape(from.value, to.value));
  const Tensor passed = gradient(from);
  if (to.node->gradient) {
    run(Add{to.node->gradient, passed, to.node->gradient});
  } else {
    to.node->gradient = passed;
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
