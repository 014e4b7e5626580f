// Linear of few rows, at the speed at which the weight comes from memory.
#pragma once

#include "harmonic/ops/linear.h"

namespace harmonic::cuda {

// Whether multiply_few_rows() is for this product.
bool has_few_rows(const Linear& op);
void multiply_few_rows(const Linear& op);

}  // namespace harmonic::cuda
