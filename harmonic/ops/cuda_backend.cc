// The entry of libharmonic_cuda.so. Not a part of libharmonic, and apart from the kernels: nvcc takes minutes
// for a table of so many ops.
#include "harmonic/ops/cuda_card.h"
#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/ops/cuda_recorder.h"
#include "harmonic/ops/cuda_table.h"

namespace harmonic {
namespace {

template <Precision precision>
const Backend* backend(const char* name) {
  static const Backend only{name,      DType::f32,           Device::cuda,       cuda::table<precision>(),
                            nullptr,   &cuda::card_memory(), &cuda::synchronize, &cuda::fill_zero,
                            precision, &cuda::recorder()};
  return &only;
}

}  // namespace

extern "C" const char* harmonic_cuda_build() {
  static const std::string id = cuda_build_id(HARMONIC_VERSION);
  return id.c_str();
}

extern "C" bool harmonic_cuda_open(CudaPlugin& plugin, std::string& message) {
  try {
    if (!cuda::find_card(plugin.device, message)) return false;
    plugin.f32 = backend<Precision::f32>("cuda");
    plugin.bf16 = backend<Precision::bf16>("cuda, bf16");
    return true;
  } catch (const std::exception& error) {
    message = error.what();
    return false;
  }
}

}  // namespace harmonic
