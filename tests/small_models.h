// Small models of every kind, for tests.
#pragma once

#include <string>
#include <vector>

#include "harmonic/base/random.h"
#include "harmonic/model/inference.h"

namespace harmonic {

struct NamedConfig {
  std::string name;
  ModelConfig config;
};

inline void PrintTo(const NamedConfig& named, std::ostream* out) { *out << named.name; }

// Every layout, cell and option, as small as they come.
inline std::vector<NamedConfig> small_configs() {
  ModelConfig base;
  base.vocab_size = 37;
  base.d_model = 12;
  base.harmonic.d_state = 10;
  base.harmonic.strides = {1, 4, 16};
  base.harmonic.taus = {2, 4, 8};
  std::vector<NamedConfig> configs;
  const auto add = [&](std::string name, auto change) {
    ModelConfig config = base;
    change(config);
    configs.push_back({std::move(name), config});
  };
  add("levels", [](ModelConfig&) {});
  add("levels_paper_form", [](ModelConfig& c) {
    c.harmonic.conv_width = 0;
    c.harmonic.d_state = 0;
  });
  add("levels_gated_no_predictor", [](ModelConfig& c) {
    c.harmonic.combine = "gated";
    c.harmonic.prediction_error = false;
    c.harmonic.gate = "input";
  });
  add("levels_selective_on_top", [](ModelConfig& c) { c.harmonic.cell = {"decay", "decay", "selective"}; });
  add("sandwich", [](ModelConfig& c) {
    c.harmonic.layout = "sandwich";
    c.harmonic.cells = {1, 1, 1, 1};
  });
  add("sandwich_selective_deep", [](ModelConfig& c) {
    c.harmonic.layout = "sandwich";
    c.harmonic.cell = {"selective"};
    c.harmonic.cells = {1, 2, 1, 2};
    c.harmonic.combine = "gated";
    c.tie_embeddings = true;
  });
  add("levels_shared", [](ModelConfig& c) {
    c.harmonic.share_cells = true;
    c.harmonic.down_projection = false;
  });
  add("sandwich_shared", [](ModelConfig& c) {
    c.harmonic.layout = "sandwich";
    c.harmonic.cell = {"selective"};
    c.harmonic.cells = {2, 1, 2, 1};
    c.harmonic.share_cells = true;
  });
  add("flat", [](ModelConfig& c) {
    c.harmonic.layout = "flat";
    c.harmonic.cells = {3};
  });
  add("two_layers_with_ffn", [](ModelConfig& c) {
    c.n_layers = 2;
    c.ffn_multiple = 1.5;
    c.harmonic.strides = {1, 3, 6};
  });
  add("mamba", [](ModelConfig& c) {
    c.mixer = {"mamba"};
    c.n_layers = 2;
  });
  add("attention", [](ModelConfig& c) {
    c.mixer = {"attention"};
    c.n_layers = 2;
    c.ffn_multiple = 1.5;
    c.attention = {.n_heads = 3, .n_kv_heads = 1, .context = 2048};
  });
  add("attention_with_yarn_and_a_large_epsilon", [](ModelConfig& c) {
    c.mixer = {"attention"};
    c.norm_epsilon = 0.01;
    c.attention = {.n_heads = 2,
                   .n_kv_heads = 1,
                   .rope = {.kind = "yarn", .factor = 4, .context = 10, .turns = {4, 0.5}},
                   .context = 2048};
  });
  add("attention_with_a_growing_base", [](ModelConfig& c) {
    c.mixer = {"attention"};
    c.attention = {.n_heads = 2,
                   .n_kv_heads = 1,
                   .rope = {.kind = "dynamic", .factor = 3, .context = 10},
                   .context = 2048};
  });
  add("harmonic_then_attention_with_a_window", [](ModelConfig& c) {
    c.mixer = {"harmonic", "attention"};
    c.n_layers = 2;
    c.attention = {.n_heads = 2, .n_kv_heads = 2, .window = 20};
  });
  add("matrix", [](ModelConfig& c) {
    c.mixer = {"matrix"};
    c.n_layers = 2;
    c.ffn_multiple = 1.5;
    c.attention = {.n_heads = 2, .n_kv_heads = 1};
    c.matrix = {.features = 10, .rope_wavelength = 8};
  });
  add("matrix_then_attention_with_a_window", [](ModelConfig& c) {
    c.mixer = {"matrix", "attention"};
    c.n_layers = 2;
    c.harmonic.conv_width = 0;
    c.attention = {.n_heads = 3, .n_kv_heads = 3, .window = 20};
  });
  add("harmonic_then_mamba_with_ffn", [](ModelConfig& c) {
    c.mixer = {"harmonic", "mamba"};
    c.n_layers = 2;
    c.ffn_multiple = 1.5;
  });
  return configs;
}

// The config alone is not enough to show anything: start vectors, predictors and level weights start at zero
// or small. Every number is moved by up to 0.3.
inline void initialise_for_test(Model& model, uint64_t seed) {
  Parameters& parameters = model.parameters();
  parameters.initialise(seed);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& value = parameters[i].value;
    const Random random(seed, stream_of(parameters[i].name + " moved"));
    for (int64_t r = 0; r < value.rows; ++r) {
      for (int64_t c = 0; c < value.cols; ++c) {
        const double by = 0.6 * random.uniform(static_cast<uint64_t>(r * value.cols + c)) - 0.3;
        if (value.dtype == DType::f64) {
          value.row<double>(r)[c] += by;
        } else {
          value.row<float>(r)[c] += static_cast<float>(by);
        }
      }
    }
  }
}

inline std::vector<int32_t> random_text(int64_t length, int64_t vocabulary, uint64_t seed) {
  const Random random(seed, stream_of("text"));
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i)
    tokens.push_back(
        static_cast<int32_t>(random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(vocabulary))));
  return tokens;
}

}  // namespace harmonic
