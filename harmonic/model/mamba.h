// Mamba-1 as a mixer (Gu and Dao, arXiv 2312.00752): expand 2, 16 numbers a channel, convolution of 4, steps
// of rank d_model / 16. The second baseline. Parameters have the names and shapes of Hugging Face's
// MambaMixer.
#pragma once

#include <memory>

#include "harmonic/model/mixer.h"

namespace harmonic {

std::unique_ptr<Mixer> make_mamba(const ModelConfig& config, const Builder& builder);

}  // namespace harmonic
