// The matrix cell as a mixer: attention's projections and heads, and in place of its cache a matrix for each
// head of keys and each level (ops/matrix_scan.h). It has attention's names, so that its weights start as a
// copy.
#pragma once

#include "harmonic/model/mixer.h"

namespace harmonic {

std::unique_ptr<Mixer> make_matrix(const ModelConfig& config, const Builder& builder);

}  // namespace harmonic
