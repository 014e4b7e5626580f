#include "harmonic/ops/device_choice.h"

#include <cstdlib>
#include <filesystem>

#include "harmonic/base/log.h"
#include "harmonic/ops/bf16_instructions.h"
#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {
namespace {

// A driver that answers has this; without it nothing is loaded, which keeps the start short.
bool a_card_may_be_there() {
  std::error_code ignored;
  return std::getenv("HARMONIC_CUDA_PLUGIN") || std::filesystem::exists("/dev/nvidiactl", ignored);
}

const Backend& cuda_backend(std::string_view precision) {
  const CudaPlugin& plugin = cuda_plugin();
  log("computing on {}", plugin.device);
  return precision == "bf16" ? *plugin.bf16 : *plugin.f32;
}

const Backend& cpu_backend_for(std::string_view precision) {
  return precision == "bf16" ? cpu_bf16_backend() : cpu_backend();
}

}  // namespace

const Backend& backend_for(std::string_view device, std::string_view precision) {
  if (device == "cuda") {
    try {
      return cuda_backend(precision);
    } catch (const Error& error) {
      throw Error(fmt::format("{}; --device cpu computes without a card", error.what()), error.kind());
    }
  }
  if (device == "auto" && a_card_may_be_there()) {
    try {
      return cuda_backend(precision);
    } catch (const Error& error) {
      log("computing on the cpu: {}", error.what());
    }
  }
  return cpu_backend_for(precision);
}

std::string products_of(const Backend& backend) {
  const bool in_bf16 = backend.precision == Precision::bf16;
  if (backend.device != Device::cpu) return in_bf16 ? "bf16" : "f32";
  if (in_bf16)
    return fmt::format("bf16 ({}; the bits are those of such processors)", name_of(bf16_instructions()));
  return fmt::format("f32 ({})", simd_target_name());
}

}  // namespace harmonic
