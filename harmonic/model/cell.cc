#include "harmonic/model/cell.h"

#include "harmonic/model/convolution.h"

namespace harmonic {
namespace {

// The paper's cell: one decaying number a channel. The gate reads u ("dense") or the normed input ("input").
class DecayCell : public Cell {
 public:
  DecayCell(const ModelConfig& config, double tau, const Builder& builder)
      : channels_(config.d_model),
        state_(config.d_state()),
        dense_(config.harmonic.gate == "dense"),
        norm_(builder.vector("norm.weight", channels_, Initial::constant(1))),
        conv_(builder, "conv", channels_, config.harmonic.conv_width, Activation::none),
        in_proj_(builder.matrix("in_proj", 2 * state_, channels_)),
        gate_(builder.matrix("gate", state_, dense_ ? state_ : channels_)),
        gate_bias_(builder.vector("gate.bias", state_, Initial::time_scales(tau / 2, 2 * tau))),
        skip_(builder.vector("skip", state_, Initial::constant(1))),
        out_proj_(builder.matrix("out_proj", channels_, state_)),
        level_(builder.keep("state", state_)) {
    builder.work.add(builder.prefix + "scan", builder.stride, static_cast<double>(2 * state_));
  }

  Variable forward(Step& step, const Variable& v, const Segments& segments) const override {
    Tape& tape = step.tape();
    const Variable n =
        conv_ ? conv_(step, rms_norm(tape, v, norm_), segments) : rms_norm_for_products(tape, v, norm_);
    const Variable uz = linear(tape, n, in_proj_);
    const Variable u = uz.columns(0, state_), z = uz.columns(state_, state_);
    const Variable g = linear(tape, dense_ ? u : n, gate_, {.bias = &gate_bias_});
    const Variable y = decay_scan(tape, u, z, g, skip_, segments, step.slots(level_));
    return linear(tape, y, out_proj_, {.base = &v});
  }

 private:
  int64_t channels_, state_;
  bool dense_;
  Parameter& norm_;
  Convolution conv_;
  Parameter &in_proj_, &gate_, &gate_bias_, &skip_, &out_proj_;
  StateField level_;
};

// The stronger cell: 16 numbers a channel, written by a key and read by a query that depend on the input.
class SelectiveCell : public Cell {
 public:
  SelectiveCell(const ModelConfig& config, double tau, const Builder& builder)
      : channels_(config.d_model),
        state_(config.d_state()),
        rank_(std::max<int64_t>(1, channels_ / 16)),
        norm_(builder.vector("norm.weight", channels_, Initial::constant(1))),
        u_proj_(builder.matrix("u_proj", state_, channels_)),
        z_proj_(builder.matrix("z_proj", state_, channels_)),
        conv_(builder, "conv", state_, config.harmonic.conv_width, Activation::silu),
        x_proj_(builder.matrix("x_proj", rank_ + 2 * kSelectiveState, state_)),
        dt_proj_(builder.matrix("dt_proj", state_, rank_)),
        dt_bias_(builder.vector("dt_proj.bias", state_, Initial::time_scales(tau / 2, 2 * tau))),
        skip_(builder.vector("skip", state_, Initial::constant(1))),
        out_proj_(builder.matrix("out_proj", channels_, state_)),
        level_(builder.keep("state", kSelectiveState * state_)) {
    builder.work.add(builder.prefix + "scan", builder.stride,
                     static_cast<double>(3 * kSelectiveState * state_));
  }

  Variable forward(Step& step, const Variable& v, const Segments& segments) const override {
    Tape& tape = step.tape();
    const Variable n = rms_norm_for_products(tape, v, norm_);
    Variable u = linear(tape, n, u_proj_);
    if (conv_) u = conv_(step, u, segments);
    const Variable z = linear(tape, n, z_proj_);
    const Variable x = linear(tape, u, x_proj_);
    const Variable dt = linear(tape, x.columns(0, rank_), dt_proj_, {.bias = &dt_bias_});
    const Variable y = selective_scan(tape, u, z, dt, x.columns(rank_, kSelectiveState),
                                      x.columns(rank_ + kSelectiveState, kSelectiveState), skip_, nullptr,
                                      segments, step.slots(level_));
    return linear(tape, y, out_proj_, {.base = &v});
  }

 private:
  int64_t channels_, state_, rank_;
  Parameter &norm_, &u_proj_, &z_proj_;
  Convolution conv_;
  Parameter &x_proj_, &dt_proj_, &dt_bias_, &skip_, &out_proj_;
  StateField level_;
};

}  // namespace

std::unique_ptr<Cell> make_cell(const std::string& kind, const ModelConfig& config, double tau,
                                const Builder& builder) {
  if (kind == "decay") return std::make_unique<DecayCell>(config, tau, builder);
  if (kind == "selective") return std::make_unique<SelectiveCell>(config, tau, builder);
  fail_usage("model.harmonic.cell: \"{}\" is not a cell; expected \"decay\" or \"selective\"", kind);
}

}  // namespace harmonic
