#include "harmonic/model/attention.h"

#include <cmath>

#include "harmonic/model/rotary_frequencies.h"

namespace harmonic {
namespace {

class AttentionMixer : public Mixer {
 public:
  AttentionMixer(const ModelConfig& config, const Builder& builder)
      : shape_{config.attention.n_heads, config.attention.n_kv_heads, config.attention.window},
        context_(config.longest_text()),
        q_proj_(builder.matrix("q_proj", config.d_model, config.d_model)),
        k_proj_(builder.matrix("k_proj", kv_width(config), config.d_model)),
        v_proj_(builder.matrix("v_proj", kv_width(config), config.d_model)),
        // Divided by the root of the number of layers that add to the stream, as Mamba's is.
        o_proj_(builder.matrix(
            "o_proj", config.d_model, config.d_model,
            Initial::uniform(1 / std::sqrt(static_cast<double>(config.d_model * config.n_layers))))),
        cache_(builder.keep_cache("cache", config.attention.cached_tokens(), 2 * kv_width(config))),
        frequencies_(rotary_frequencies(config.attention, config.head_width())) {
    // Of scores and weighted values, for the keys that a token in a full context reads on average.
    const auto keys = static_cast<double>(config.attention.cached_tokens());
    builder.work.add(
        builder.prefix + "scores", builder.stride,
        2 * static_cast<double>(config.d_model) * (config.attention.window > 0 ? keys : (keys + 1) / 2));
  }

  Variable forward(Step& step, const Variable& x) const override {
    Tape& tape = step.tape();
    for (int64_t b = 0; context_ > 0 && b < step.segments().count; ++b)
      if (const int64_t end = step.position(b) + step.segments().length(b); end > context_)
        fail(
            "attention remembers {} tokens of a text and this one has {} or more; cut the text, or take a "
            "model "
            "whose attention looks back over a window (attention.window; harmonic convert --window), or was "
            "trained for more (attention.context)",
            context_, end);
    const Tensor table = step.rotary_table(frequencies_);
    const Variable q = rotate(tape, linear(tape, x, q_proj_), table);
    const Variable k = rotate(tape, linear(tape, x, k_proj_), table);
    const Variable v = linear(tape, x, v_proj_);
    const StateSlots cache = step.slots(cache_);
    const Variable y =
        attention(tape, q, k, v, shape_, step.segments(), step.positions_in_cache(cache), cache);
    return linear(tape, y, o_proj_);
  }

 private:
  static int64_t kv_width(const ModelConfig& config) {
    return config.d_model / config.attention.n_heads * config.attention.n_kv_heads;
  }

  AttentionShape shape_;
  int64_t context_;
  Parameter &q_proj_, &k_proj_, &v_proj_, &o_proj_;
  StateField cache_;
  RotaryFrequencies frequencies_;
};

}  // namespace

std::unique_ptr<Mixer> make_attention(const ModelConfig& config, const Builder& builder) {
  return std::make_unique<AttentionMixer>(config, builder);
}

}  // namespace harmonic
