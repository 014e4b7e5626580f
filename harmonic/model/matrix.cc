#include "harmonic/model/matrix.h"

#include <cmath>

#include "harmonic/base/portable_math.h"
#include "harmonic/model/convolution.h"

namespace harmonic {
namespace {

// One level: its maps of queries and keys, its gate, and its matrices. A slow one pools keys, values and
// gates.
class Level {
 public:
  // `number` counts from 1.
  Level(const ModelConfig& config, int64_t number, const Builder& token_rate)
      : shape_{config.attention.n_heads, config.attention.n_kv_heads, config.matrix_features(),
               config.head_width(), config.harmonic.strides.at(static_cast<size_t>(number - 1))} {
    const Builder here = token_rate.within(fmt::format("level{}", number));
    const int64_t width = shape_.values, half = shape_.features / 2;
    const double tau = config.harmonic.taus.at(static_cast<size_t>(number - 1));
    query_map_ = &here.parameters.add(here.prefix + "query_map.weight", {shape_.heads * width, half},
                                      Role::matrix, Initial::identities(width));
    key_map_ = &here.parameters.add(here.prefix + "key_map.weight", {shape_.kv_heads * width, half},
                                    Role::matrix, Initial::identities(width));
    query_map_->plain = key_map_->plain = true;
    gate_ = &here.matrix("gate", shape_.kv_heads, config.d_model, Initial::zeros());
    gate_bias_ = &here.vector("gate.bias", shape_.kv_heads, Initial::time_scales(tau / 2, 2 * tau));
    // Slow levels start at a tenth of the fast one's weight.
    log_gain_ =
        &here.vector("log_gain", shape_.heads, Initial::constant(number == 1 ? 0 : portable::log(0.1)));
    if (shape_.stride > 1) {
      key_pool_ = here.keep("key_pool", shape_.kv_heads * width);
      value_pool_ = here.keep("value_pool", shape_.kv_heads * width);
      gate_pool_ = here.keep("gate_pool", shape_.kv_heads);
    }
    state_ = here.keep("state", shape_.state());
    const auto work = [&](const char* name, int64_t stride, int64_t multiply_adds) {
      here.work.add(here.prefix + name, stride, static_cast<double>(multiply_adds));
    };
    work("query_map", 1, shape_.heads * width * half);
    work("key_map", shape_.stride, shape_.kv_heads * width * half);
    work("read", 1, shape_.heads * shape_.features * (width + 1));
    work("write", shape_.stride, 2 * shape_.state());
  }

  // What the queries read: [R, H*(D+1)]. x is what the gate reads.
  Variable read(Step& step, const Variable& x, const Variable& q, const Variable& k,
                const Variable& v) const {
    Tape& tape = step.tape();
    const LevelRows& level = step.level(shape_.stride);
    Variable keys = k, values = v, gates = linear(tape, x, *gate_, {.bias = gate_bias_});
    if (shape_.stride > 1) {
      const auto pool = [&](const Variable& rows, const StateField& sums) {
        return causal_pool(tape, rows, step.segments(), level.phases, shape_.stride, level.blocks,
                           step.slots(sums));
      };
      keys = pool(k, key_pool_);
      values = pool(v, value_pool_);
      gates = pool(gates, gate_pool_);
    }
    return matrix_scan(tape, feature_map(tape, q, *query_map_, shape_.heads),
                       feature_map(tape, keys, *key_map_, shape_.kv_heads), values, gates, *log_gain_, shape_,
                       step.segments(), level.blocks, level.phases, step.slots(state_));
  }

 private:
  MatrixShape shape_;
  Parameter *query_map_, *key_map_, *gate_, *gate_bias_, *log_gain_;
  StateField key_pool_, value_pool_, gate_pool_, state_;
};

class MatrixMixer : public Mixer {
 public:
  MatrixMixer(const ModelConfig& config, const Builder& builder)
      : heads_(config.attention.n_heads),
        q_proj_(builder.matrix("q_proj", config.d_model, config.d_model)),
        k_proj_(builder.matrix("k_proj", kv_width(config), config.d_model)),
        v_proj_(builder.matrix("v_proj", kv_width(config), config.d_model)),
        o_proj_(builder.matrix(
            "o_proj", config.d_model, config.d_model,
            Initial::uniform(1 / std::sqrt(static_cast<double>(config.d_model * config.n_layers))))),
        q_conv_(convolution(config, builder, "q_conv", config.d_model)),
        k_conv_(convolution(config, builder, "k_conv", kv_width(config))),
        v_conv_(convolution(config, builder, "v_conv", kv_width(config))),
        frequencies_(rotary_frequencies(config.matrix.rotation.value_or(config.attention),
                                        config.head_width(),
                                        static_cast<double>(config.matrix.rope_wavelength))) {
    for (int64_t number = 1; number <= config.harmonic.levels(); ++number)
      levels_.emplace_back(config, number, builder);
  }

  Variable forward(Step& step, const Variable& x) const override {
    Tape& tape = step.tape();
    const auto project = [&](const Parameter& weight, const Convolution& conv) {
      const Variable y = linear(tape, x, weight);
      return conv ? conv(step, y, step.segments()) : y;
    };
    Variable q = project(q_proj_, q_conv_), k = project(k_proj_, k_conv_);
    const Variable v = project(v_proj_, v_conv_);
    // The fast level comes last: on the way back it is the first to give q, k and v their gradients, and its
    // ops overwrite them.
    Variable slow;
    for (size_t l = levels_.size(); l-- > 1;) {
      const Variable read = levels_[l].read(step, x, q, k, v);
      slow = slow.value ? add(tape, slow, read) : read;
    }
    if (frequencies_.values.front() > 0) {
      const Tensor table = step.rotary_table(frequencies_);
      q = rotate(tape, q, table);
      k = rotate(tape, k, table);
    }
    Variable reads = levels_[0].read(step, x, q, k, v);
    if (slow.value) reads = add(tape, slow, reads);
    return linear(tape, weighted_mean(tape, reads, heads_), o_proj_);
  }

 private:
  static int64_t kv_width(const ModelConfig& config) {
    return config.head_width() * config.attention.n_kv_heads;
  }
  // Starts as if it were not there.
  static Convolution convolution(const ModelConfig& config, const Builder& builder, const char* name,
                                 int64_t channels) {
    const int64_t width = config.harmonic.conv_width;
    return {
        builder, name, channels, width, Activation::none, Initial::zeros(), Initial::one_column(width - 1)};
  }

  int64_t heads_;
  Parameter &q_proj_, &k_proj_, &v_proj_, &o_proj_;
  Convolution q_conv_, k_conv_, v_conv_;
  RotaryFrequencies frequencies_;
  std::vector<Level> levels_;
};

}  // namespace

std::unique_ptr<Mixer> make_matrix(const ModelConfig& config, const Builder& builder) {
  return std::make_unique<MatrixMixer>(config, builder);
}

}  // namespace harmonic
