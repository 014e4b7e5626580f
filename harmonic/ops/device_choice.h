// Which backend computes: what --device and train.precision come to.
#pragma once

#include <string>
#include <string_view>

#include "harmonic/ops/backend.h"

namespace harmonic {

// "cpu", "cuda", or "auto": the card where there is one that can be used, else the cpu, which a message says
// where there is a card. `precision` of matrix products: "f32", or "bf16" on a card and on processors that
// have them (cpu_bf16_backend). Throws Error when what is asked for is not to be had.
const Backend& backend_for(std::string_view device, std::string_view precision = "f32");

// What a backend's matrix products are computed in and with, for people: "f32 (AVX-512)".
std::string products_of(const Backend& backend);

}  // namespace harmonic
