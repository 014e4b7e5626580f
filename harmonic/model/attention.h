// Causal attention as a mixer, with grouped heads and rotary positions: the Transformer baseline and the
// layers of the Llama family. Parameters have the names and shapes of Hugging Face's LlamaAttention. Its
// state is a cache of keys and values: as long as the model's context or, with a window, as the window.
#pragma once

#include <memory>

#include "harmonic/model/mixer.h"

namespace harmonic {

// Radians a token by which numbers i and i + D/2 of each head turn; 0 where the wave is longer than `longest`
// tokens.
std::vector<double> rotary_frequencies(const ModelConfig& config, double longest);

std::unique_ptr<Mixer> make_attention(const ModelConfig& config, const Builder& builder);

}  // namespace harmonic
