// The causal depthwise convolution as a part of cells and mixers: its parameters and the tail it keeps.
#pragma once

#include <optional>

#include "harmonic/model/mixer.h"

namespace harmonic {

class Convolution {
 public:
  // `width` 0 leaves it out. `bias`, `weight`: how they start.
  Convolution(const Builder& builder, const std::string& name, int64_t channels, int64_t width,
              Activation activation, Initial bias = Initial::zeros(), std::optional<Initial> weight = {})
      : activation_(activation) {
    if (width == 0) return;
    weight_ = &builder.parameters.add(builder.prefix + name + ".weight", {channels, 1, width}, Role::vector,
                                      weight.value_or(Initial::fan_in(width)));
    bias_ = &builder.vector(name + ".bias", channels, bias);
    tail_ = builder.keep(name + ".tail", (width - 1) * channels);
  }
  explicit operator bool() const { return weight_ != nullptr; }
  Variable operator()(Step& step, const Variable& x, const Segments& segments) const {
    return causal_conv(step.tape(), x, *weight_, *bias_, activation_, segments, step.slots(tail_));
  }

 private:
  Parameter* weight_ = nullptr;
  Parameter* bias_ = nullptr;
  StateField tail_;
  Activation activation_;
};

}  // namespace harmonic
