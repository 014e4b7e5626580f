// The HarmonicBlock: recurrent levels at strides 1, 4, 16, each reading what the faster one left unpredicted,
// and each brought back to token rate without a look at the future. Layouts: "levels", "sandwich" and the
// control "flat".
#pragma once

#include <memory>

#include "harmonic/model/mixer.h"

namespace harmonic {

std::unique_ptr<Mixer> make_harmonic_block(const ModelConfig& config, const Builder& builder);

}  // namespace harmonic
