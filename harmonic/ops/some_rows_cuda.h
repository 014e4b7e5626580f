// Linear of some rows, too many to be read row by row and too few for cuBLASLt's large tiles, by a packed
// weight whose rows are short: the steps of decoding of many texts.
#pragma once

#include "harmonic/ops/linear.h"

namespace harmonic::cuda {

// Whether multiply_some_rows() is for this product.
bool has_some_rows(const Linear& op);
void multiply_some_rows(const Linear& op);

// Of y the last columns, from `first` on: a few, of any rows and a packed weight of bf16 numbers.
void multiply_last_columns(const Linear& op, int64_t first);

}  // namespace harmonic::cuda
