// The yardsticks of whatever computes: the processor's (machine_peak.h), or a card's.
#pragma once

#include "harmonic/ops/backend.h"

namespace harmonic {

// Floating-point operations a second, in the backend's precision. Of a card: of one product of 8,192 x 8,192
// matrices, of bf16 numbers where it rounds operands to such, the best of several.
double measure_matrix_peak(ThreadPool& pool, const Backend& backend);
// Bytes a second from and to memory. Of a card: of a sum of two arrays of a GiB, the best of several.
double measure_bandwidth(ThreadPool& pool, const Backend& backend);

}  // namespace harmonic
