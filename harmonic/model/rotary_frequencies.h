// The angles of rotary positions, and the ways in which they are stretched over longer texts than a model was
// trained for; each as the Hugging Face library defines it.
#pragma once

#include <limits>
#include <vector>

#include "harmonic/model/config.h"

namespace harmonic {

struct RotaryFrequencies {
  std::vector<double> values;  // [D/2], in radians a token
  double scale = 1;            // of cosines and sines
  // Of dynamic scaling, where context > 0: see RotaryTable.
  double growth = 1;
  int64_t context = 0;

  bool operator==(const RotaryFrequencies&) const = default;
};

// `width` is D, a head's. Waves longer than `longest` tokens do not turn: their frequency is 0. The
// configuration must be valid.
RotaryFrequencies rotary_frequencies(const AttentionConfig& config, int64_t width,
                                     double longest = std::numeric_limits<double>::infinity());

}  // namespace harmonic
