#include "harmonic/train/optimizer.h"

#include <cmath>
#include <cstring>

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
    : backend_(backend), beta1_(config.betas.at(0)), beta2_(config.betas.at(1)) {
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
  double sum = 0;
  for (const Slot& slot : slots_) {
    double squares = 0;
    backend_(context, SumOfSquares{slot.parameter->grad, &squares});
    sum += squares;
  }
  return std::sqrt(sum);
}

void Optimizer::update(Context& context, int64_t step, double lr_share, double gradient_scale) {
  for (const Tensor& gradient : unused_)
    std::memset(gradient.data, 0, static_cast<size_t>(gradient.size() * size_of(gradient.dtype)));
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
