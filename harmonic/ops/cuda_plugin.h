// libharmonic_cuda.so: the cuda backend, in a library of its own that is loaded when it is asked for, so that
// the program needs nothing of CUDA to start. Both sides are built from the same headers; a build id says so.
#pragma once

#include <string>

#include "harmonic/ops/backend.h"

namespace harmonic {

// What the library has.
struct CudaPlugin {
  const Backend* f32 = nullptr;   // products of f32 numbers
  const Backend* bf16 = nullptr;  // of numbers rounded to bf16, summed in f32
  std::string device;             // the card's name, for people
};

// Its two functions: the id of its build, which must be the program's own before the other may be called; and
// one that fills `plugin`, or `message` when there is nothing to compute with.
using CudaPluginBuild = const char*();
inline constexpr const char* kCudaPluginBuild = "harmonic_cuda_build";
using OpenCudaPlugin = bool(CudaPlugin& plugin, std::string& message);
inline constexpr const char* kOpenCudaPlugin = "harmonic_cuda_open";

// Differs where the layout of what both sides exchange does, as far as sizes tell, or the version.
template <typename... Ops>
constexpr uint64_t fingerprint_of_sizes(const OpTable<Ops...>*) {
  uint64_t hash = 14695981039346656037u;
  for (const size_t size : {sizeof(Ops)..., sizeof(Tensor), sizeof(Segments), sizeof(Gradient), sizeof(Arena),
                            sizeof(Context), sizeof(Backend), sizeof(CudaPlugin)})
    hash = (hash ^ size) * 1099511628211u;
  return hash;
}
inline std::string cuda_build_id(std::string_view version) {
  return fmt::format("{}-{:016x}", version, fingerprint_of_sizes(static_cast<const AllOps*>(nullptr)));
}

// Loads the library at `path`. Throws Error, naming it, when it cannot be loaded, is of another build, or
// finds no card. It stays loaded.
CudaPlugin load_cuda_plugin(const std::string& path);
// Where the library is: what HARMONIC_CUDA_PLUGIN names, else beside the program or in the folder lib beside
// the program's folder. Throws Error when it is nowhere.
std::string find_cuda_plugin();
// The library, loaded once.
const CudaPlugin& cuda_plugin();

}  // namespace harmonic
