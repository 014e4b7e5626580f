#include "harmonic/ops/device_choice.h"

#include <cstdlib>
#include <filesystem>

#include "harmonic/base/log.h"
#include "harmonic/ops/cuda_plugin.h"

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
  if (precision != "f32")
    fail_usage("precision \"{}\" is computed on a card only (--device cuda); the cpu has f32", precision);
  return cpu_backend();
}

}  // namespace

const Backend& backend_for(std::string_view device, std::string_view precision) {
  if (device == "cuda") return cuda_backend(precision);
  if (device == "auto" && a_card_may_be_there()) {
    try {
      return cuda_backend(precision);
    } catch (const Error& error) {
      log("computing on the cpu: {}", error.what());
    }
  }
  return cpu_backend_for(precision);
}

}  // namespace harmonic
