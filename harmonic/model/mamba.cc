#include "harmonic/model/mamba.h"

#include <cmath>

#include "harmonic/base/checked.h"
#include "harmonic/model/convolution.h"

namespace harmonic {
namespace {

constexpr int64_t kExpand = 2, kConvWidth = 4;
// The steps softplus(dt) start log-uniform in [1/1000, 1/10] (the paper, section 3.6): time scales in tokens.
constexpr double kShortest = 10, kLongest = 1000;

class Mamba : public Mixer {
 public:
  Mamba(const ModelConfig& config, const Builder& builder)
      : inner_(kExpand * config.d_model),
        rank_(ceil_div(config.d_model, 16)),
        in_proj_(builder.matrix("in_proj", 2 * inner_, config.d_model)),
        conv_(builder, "conv1d", inner_, kConvWidth, Activation::silu, Initial::fan_in(kConvWidth)),
        x_proj_(builder.matrix("x_proj", rank_ + 2 * kSelectiveState, inner_)),
        dt_proj_(builder.matrix("dt_proj", inner_, rank_)),
        dt_bias_(builder.vector("dt_proj.bias", inner_, Initial::time_scales(kShortest, kLongest))),
        a_log_(builder.parameters.add(builder.prefix + "A_log", {inner_, kSelectiveState}, Role::vector,
                                      Initial::log_of_column())),
        d_(builder.vector("D", inner_, Initial::constant(1))),
        // Divided by the root of the number of layers that add to the stream, as in the authors' code.
        out_proj_(
            builder.matrix("out_proj", config.d_model, inner_,
                           Initial::uniform(1 / std::sqrt(static_cast<double>(inner_ * config.n_layers))))),
        state_(builder.keep("state", kSelectiveState * inner_)) {
    builder.work.add(builder.prefix + "scan", builder.stride,
                     static_cast<double>(3 * kSelectiveState * inner_));
  }

  Variable forward(Step& step, const Variable& x) const override {
    Tape& tape = step.tape();
    const Variable uz = linear(tape, x, in_proj_);
    const Variable u = conv_(step, uz.columns(0, inner_), step.segments()), z = uz.columns(inner_, inner_);
    const Variable parts = linear(tape, u, x_proj_);
    const Variable dt = linear(tape, parts.columns(0, rank_), dt_proj_, {.bias = &dt_bias_});
    const Variable y = selective_scan(tape, u, z, dt, parts.columns(rank_, kSelectiveState),
                                      parts.columns(rank_ + kSelectiveState, kSelectiveState), d_, &a_log_,
                                      step.segments(), step.slots(state_));
    return linear(tape, y, out_proj_);
  }

 private:
  int64_t inner_, rank_;
  Parameter& in_proj_;
  Convolution conv_;
  Parameter &x_proj_, &dt_proj_, &dt_bias_, &a_log_, &d_, &out_proj_;
  StateField state_;
};

}  // namespace

std::unique_ptr<Mixer> make_mamba(const ModelConfig& config, const Builder& builder) {
  return std::make_unique<Mamba>(config, builder);
}

}  // namespace harmonic
