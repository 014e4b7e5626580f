// The cuda backend's kernels on the processor (cuda_on_cpu.h): backends like any other, for tests.
#pragma once

#include "harmonic/ops/backend.h"

namespace harmonic {

// Products in f32; and of numbers rounded to bf16.
const Backend& emulated_cuda_backend();
const Backend& emulated_cuda_bf16_backend();
// Like a card in how it is dealt with: kernels run when they are waited for, and reach memory of the
// backend's source alone.
const Backend& emulated_cuda_device_backend();

// How often recordings of the last one were replayed so far.
int64_t emulated_replays();

// Whether the tests are to use a card too (HARMONIC_TEST_DEVICE=cuda): then they fail where none answers.
bool a_card_is_tested();

}  // namespace harmonic
