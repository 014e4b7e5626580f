#include "harmonic/model/rotary_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "harmonic/base/portable_math.h"

namespace harmonic {
namespace {

// How much of frequency i is kept by YaRN (Peng et al., arXiv 2309.00071): between the index that turns
// rope.turns[0] times within the original context and the one that turns rope.turns[1] times, as whole
// numbers, it falls from 1 to 0.
double kept_by_yarn(const RopeScaling& rope, double base, double context, double width, double i) {
  const auto index_of = [&](double turns) {
    return width * portable::log(context / (turns * 2 * std::numbers::pi)) / (2 * portable::log(base));
  };
  const double first = std::max(std::floor(index_of(rope.turns[0])), 0.0);
  double last = std::min(std::ceil(index_of(rope.turns[1])), width - 1);
  if (first == last) last += 0.001;
  return 1 - std::clamp((i - first) / (last - first), 0.0, 1.0);
}

// Llama 3's: linear in the turns themselves.
double kept_by_llama3(const RopeScaling& rope, double frequency, double context) {
  const double turns = context * frequency / (2 * std::numbers::pi);
  return std::clamp((turns - rope.turns[1]) / (rope.turns[0] - rope.turns[1]), 0.0, 1.0);
}

}  // namespace

RotaryFrequencies rotary_frequencies(const AttentionConfig& config, int64_t width, double longest) {
  const RopeScaling& rope = config.rope;
  const int64_t trained = rope.context > 0 ? rope.context : config.context;
  const auto context = static_cast<double>(trained), D = static_cast<double>(width);
  RotaryFrequencies frequencies;
  for (int64_t i = 0; i < width / 2; ++i) {
    const auto index = static_cast<double>(i);
    const double plain =
        portable::exp2(-2.0 * index / D * portable::log(config.rope_base) * std::numbers::log2e);
    double kept = 1;
    if (rope.kind == "linear") kept = 0;
    if (rope.kind == "yarn") kept = kept_by_yarn(rope, config.rope_base, context, D, index);
    if (rope.kind == "llama3") kept = kept_by_llama3(rope, plain, context);
    const double frequency = kept == 1 ? plain : plain * kept + plain / rope.factor * (1 - kept);
    frequencies.values.push_back(2 * std::numbers::pi / frequency <= longest ? frequency : 0);
  }
  if (rope.kind == "yarn")
    frequencies.scale = rope.attention > 0 ? rope.attention : 0.1 * portable::log(rope.factor) + 1;
  if (rope.kind == "dynamic") {
    frequencies.growth = rope.factor;
    frequencies.context = trained;
  }
  return frequencies;
}

}  // namespace harmonic
