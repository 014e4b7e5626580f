#include "harmonic/train/optimizer.h"

#include <cmath>
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
    if (!is_trained(parameters[i], config, objective)) {
      unused_.push_back(parameters[i].grad);
      continue;
    }
    Slot slot{&parameters[i], group_of(parameters.role(i), config), {}, {}};
    const Tensor& value = slot.parameter->value;
    slot.m = memory_.zeros(value.rows, value.cols, value.dtype);
    if (!slot.group.muon) slot.v = memory_.zeros(value.rows, value.cols, value.dtype);
    slots_.push_back(slot);
  }
}

double Optimizer::gradient_norm(Context& context) const {
  const ArenaScope scope(context.scratch);
  const auto count = static_cast<int64_t>(slots_.size());
  auto* squares = context.scratch.tensor(1, count, DType::f64, MemoryUse::shared).as<double>();
  for (int64_t i = 0; i < count; ++i)
    backend_(context, SumOfSquares{slots_[static_cast<size_t>(i)].parameter->grad, squares + i});
  backend_.synchronize();
  return std::sqrt(std::accumulate(squares, squares + count, 0.0));
}

void Optimizer::update(Context& context, int64_t step, double lr_share, double gradient_scale) {
  for (const Tensor& gradient : unused_) backend_.zero(gradient);
  for (const Slot& slot : slots_) {
    const Parameter& parameter = *slot.parameter;
    const double lr = slot.group.peak_lr * lr_share;
    if (slot.group.muon) {
      Muon op{parameter.value, parameter.grad, slot.m};
      op.gradient_scale = gradient_scale;
      op.lr = lr;
      op.weight_decay = slot.group.weight_decay;
      backend_(context, op);
      continue;
    }
    AdamW op{parameter.value, parameter.grad, slot.m, slot.v};
    op.gradient_scale = gradient_scale;
    op.lr = lr;
    op.beta1 = beta1_;
    op.beta2 = beta2_;
    op.weight_decay = slot.group.weight_decay;
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
