#include "harmonic/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
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
      slots_.push_back({&parameters[i], group_of(parameters.role(i), config), {}, {}});
    } else {
      unused_.push_back(parameters[i].grad);
    }
  }
  std::vector<Slot*> in_memory;
  for (Slot& slot : slots_) in_memory.push_back(&slot);
  std::sort(in_memory.begin(), in_memory.end(), [](const Slot* a, const Slot* b) {
    return std::less<>()(a->parameter->value.data, b->parameter->value.data);
  });
  const auto zeros = [&](const Slot& slot) {
    const Tensor& value = slot.parameter->value;
    const Tensor result = memory_.side_by_side(value.rows, value.cols, value.dtype);
    std::memset(result.data, 0, static_cast<size_t>(result.size() * size_of(result.dtype)));
    return result;
  };
  for (Slot* slot : in_memory) slot->m = zeros(*slot);
  for (Slot* slot : in_memory)
    if (!slot->group.muon) slot->v = zeros(*slot);
  for (const Slot* slot : in_memory) add_piece(*slot);
}

void Optimizer::add_piece(const Slot& slot) {
  const Piece next{slot.parameter->value, slot.parameter->grad, slot.m, slot.v, slot.group};
  if (!next.group.muon && !pieces_.empty() && pieces_.back().group == next.group) {
    Piece& last = pieces_.back();
    const Piece both{joined(last.value, next.value), joined(last.grad, next.grad), joined(last.m, next.m),
                     joined(last.v, next.v), next.group};
    if (both.value && both.grad && both.m && both.v) {
      last = both;
      return;
    }
  }
  pieces_.push_back(next);
}

double Optimizer::gradient_norm(Context& context) const {
  const ArenaScope scope(context.scratch);
  const auto count = static_cast<int64_t>(pieces_.size());
  auto* squares = context.scratch.tensor(1, count, DType::f64, MemoryUse::shared).as<double>();
  for (int64_t i = 0; i < count; ++i)
    backend_(context, SumOfSquares{pieces_[static_cast<size_t>(i)].grad, squares + i});
  backend_.synchronize();
  return std::sqrt(std::accumulate(squares, squares + count, 0.0));
}

void Optimizer::update(Context& context, int64_t step, double lr_share, double gradient_scale) {
  for (const Tensor& gradient : unused_) backend_.zero(gradient);
  for (const Piece& piece : pieces_) {
    const double lr = piece.group.peak_lr * lr_share;
    if (piece.group.muon) {
      Muon op{piece.value, piece.grad, piece.m};
      op.gradient_scale = gradient_scale;
      op.lr = lr;
      op.weight_decay = piece.group.weight_decay;
      backend_(context, op);
      continue;
    }
    AdamW op{piece.value, piece.grad, piece.m, piece.v};
    op.gradient_scale = gradient_scale;
    op.lr = lr;
    op.beta1 = beta1_;
    op.beta2 = beta2_;
    op.weight_decay = piece.group.weight_decay;
    op.step = step;
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
