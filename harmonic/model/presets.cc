#include "harmonic/model/presets.h"

#include <fmt/ranges.h>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

ModelConfig paper_size(std::string mixer) {
  ModelConfig config;
  config.vocab_size = 50257;
  config.eot_token_id = 50256;
  config.mixer = {std::move(mixer)};
  config.d_model = 256;
  return config;
}

ModelConfig harmonic_of_the_paper() {
  ModelConfig config = paper_size("harmonic");
  config.harmonic.d_state = 512;
  config.harmonic.conv_width = 0;
  return config;
}

ModelConfig transformer(int64_t layers, double ffn_multiple) {
  ModelConfig config = paper_size("attention");
  config.n_layers = layers;
  config.ffn_multiple = ffn_multiple;
  return config;
}

ModelConfig mamba(int64_t layers) {
  ModelConfig config = paper_size("mamba");
  config.n_layers = layers;
  return config;
}

}  // namespace

const std::vector<Preset>& presets() {
  // The paper gives its baselines' sizes and not their shapes: depths are those that come nearest, and SwiGLU
  // of 8/3 d_model has the weights of a plain ffn of 4.
  static const std::vector<Preset> all = {
      {"paper", "the paper's plain form", harmonic_of_the_paper(), 27'965'952, 2'234'368},
      {"paper-transformer", "a Transformer of the size of the paper's", transformer(4, 2.6875), 28'886'528,
       3'154'944},
      {"paper-mamba", "Mamba-1 of about the size of the paper's", mamba(5), 28'100'608, 2'369'024},
      {"equal-core-transformer", "a Transformer with the core parameters of \"paper\"",
       transformer(3, 2.46875), 28'886'528, 3'154'944},
  };
  return all;
}

const Preset* find_preset(std::string_view name) {
  for (const Preset& preset : presets())
    if (preset.name == name) return &preset;
  return nullptr;
}

const Preset& preset_named(std::string_view name) {
  if (const Preset* preset = find_preset(name)) return *preset;
  fail_usage("model.preset = \"{}\": expected one of {}{}", name, fmt::join(preset_names(), ", "),
             did_you_mean(name, preset_names()));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.push_back(preset.name);
  return names;
}

}  // namespace harmonic
