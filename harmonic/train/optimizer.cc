#include "harmonic/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace harmonic {

ParameterGroup group_of(Role role, const TrainConfig& config) {
  if (role != Role::matrix) return {false, config.lr, 0};
  const bool muon = config.optimizer == "muon";
  return {muon, muon ? config.muon_lr : config.lr, config.weight_decay};
}

bool is_trained(const Parameter& parameter, const TrainConfig& config, const Objective& objective) {
  return objective.reaches(parameter) &&
         (config.only == "all" || parameter.name.find(".mixer.") != std::string::npos);
}

Optimizer::Optimizer(Parameters& parameters, const Backend& backend, const TrainConfig& config,
                     const Objective& objective)
    : backend_(backend), beta1_(config.betas.at(0)), beta2_(config.betas.at(1)), memory_(backend.memory) {
  HARMONIC_ASSERT(parameters.trained());
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (is_trained(parameters[i], config, objective)) {
      slots_.push_back({&parameters[i], parameters.role(i), group_of(parameters.role(i), config), {}, {}});
    } else {
      unused_.push_back(parameters[i].grad);
    }
  }
  for (const Role role : {Role::vector, Role::embedding, Role::matrix}) {
    std::vector<Tensor*> m, v;
    for (Slot& slot : slots_) {
      if (slot.role != role) continue;
      const Tensor shape{nullptr, slot.parameter->value.rows, slot.parameter->value.cols};
      slot.m = slot.v = shape;
      m.push_back(&slot.m);
      if (!slot.group.muon) v.push_back(&slot.v);
    }
    for (const std::vector<Tensor*>& tensors : {m, v}) {
      memory_.side_by_side(tensors, backend.dtype);
      for (const Tensor* tensor : tensors)
        std::memset(tensor->data, 0, static_cast<size_t>(tensor->size() * size_of(tensor->dtype)));
    }
    for (const Slot& slot : slots_)
      if (slot.role == role) slot.group.muon ? add_matrix(slot) : add_piece(slot);
  }
}

void Optimizer::add_piece(const Slot& slot) {
  const Piece next{slot.parameter->value, slot.parameter->grad, slot.m, slot.v, slot.role, slot.group};
  // Those of another role are apart, even where they happen to lie side by side: sums have one order.
  // Only the matrices' role has gradients that are no piece's, and it comes last.
  if (!pieces_.empty() && pieces_.back().role == next.role) {
    Piece& last = pieces_.back();
    const Piece both{joined(last.value, next.value),
                     joined(last.grad, next.grad),
                     joined(last.m, next.m),
                     joined(last.v, next.v),
                     next.role,
                     next.group};
    if (both.value && both.grad && both.m && both.v) {
      last = both;
      gradients_.back() = both.grad;
      return;
    }
  }
  pieces_.push_back(next);
  gradients_.push_back(next.grad);
}

void Optimizer::add_matrix(const Slot& slot) {
  // Together: what Muon needs meanwhile is not counted in train.memory_mb.
  constexpr int64_t kMostNumbers = 1 << 22;
  const Tensor& value = slot.parameter->value;
  const auto has_room = [&](const Matrices& matrices) {
    return same_shape(matrices.all[0].value, value) &&
           (static_cast<int64_t>(matrices.all.size()) + 1) * value.size() <= kMostNumbers;
  };
  auto to = std::find_if(matrices_.begin(), matrices_.end(), has_room);
  if (to == matrices_.end()) to = matrices_.insert(to, Matrices{{}, slot.group});
  to->all.push_back({value, slot.parameter->grad, slot.m});
  gradients_.push_back(slot.parameter->grad);
}

double Optimizer::gradient_norm(Context& context) const {
  const ArenaScope scope(context.scratch);
  const auto count = static_cast<int64_t>(gradients_.size());
  auto* squares = context.scratch.tensor(1, count, DType::f64, MemoryUse::shared).as<double>();
  backend_(context, SumsOfSquares{gradients_.data(), count, squares});
  backend_.synchronize();
  return std::sqrt(std::accumulate(squares, squares + count, 0.0));
}

void Optimizer::update(Context& context, int64_t step, double lr_share, double gradient_scale) {
  for (const Tensor& gradient : unused_) backend_.zero(gradient);
  for (const Piece& piece : pieces_) {
    AdamW op{piece.value, piece.grad, piece.m, piece.v};
    op.gradient_scale = gradient_scale;
    op.lr = piece.group.peak_lr * lr_share;
    op.beta1 = beta1_;
    op.beta2 = beta2_;
    op.weight_decay = piece.group.weight_decay;
    op.step = step;
    backend_(context, op);
  }
  for (const Matrices& matrices : matrices_) {
    Muon op{matrices.all.data(), static_cast<int64_t>(matrices.all.size())};
    op.gradient_scale = gradient_scale;
    op.lr = matrices.group.peak_lr * lr_share;
    op.weight_decay = matrices.group.weight_decay;
    backend_(context, op);
  }
  backend_.synchronize();  // the program may read or save the parameters now
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> tensors;
  for (const Slot& slot : slots_) {
    tensors.push_back({slot.parameter->name + ".m", slot.parameter->shape, slot.m});
    if (slot.v) tensors.push_back({slot.parameter->name + ".v", slot.parameter->shape, slot.v});
  }
  return tensors;
}

}  // namespace harmonic
