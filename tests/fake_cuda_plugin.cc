// A library that is asked for a cuda backend and has none: of the program's build, or of another.
#include "harmonic/ops/cuda_plugin.h"

namespace harmonic {

extern "C" const char* harmonic_cuda_build() {
#ifdef HARMONIC_OTHER_BUILD
  return "0.0.0-of-another-day";
#else
  static const std::string id = cuda_build_id(HARMONIC_VERSION);
  return id.c_str();
#endif
}

extern "C" bool harmonic_cuda_open(CudaPlugin&, std::string& message) {
  message = "there is no CUDA device: the driver answers error 35";
  return false;
}

}  // namespace harmonic
