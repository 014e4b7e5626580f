// Recordings of the card's work (WorkRecorder): CUDA graphs.
#pragma once

#include "harmonic/ops/backend.h"

namespace harmonic::cuda {

WorkRecorder& recorder();
// A copy of a list in the memory of what is being recorded; null where nothing is.
const void* recorded_list(const void* list, int64_t bytes);

}  // namespace harmonic::cuda
