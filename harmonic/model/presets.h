// Named starting points for a model's configuration.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harmonic/model/config.h"

namespace harmonic {

struct Preset {
  std::string name, summary;
  ModelConfig config;
  // What the paper (arXiv 2606.24650) gives for its model of that kind: all parameters, and those beside the
  // two embedding tables.
  int64_t paper_parameters = 0, paper_core = 0;
};

const std::vector<Preset>& presets();
// Null for an unknown name.
const Preset* find_preset(std::string_view name);
// The same, but throws Error (usage) with the nearest name.
const Preset& preset_named(std::string_view name);
std::vector<std::string> preset_names();

}  // namespace harmonic
