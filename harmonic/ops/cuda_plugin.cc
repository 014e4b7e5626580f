#include "harmonic/ops/cuda_plugin.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

namespace harmonic {

CudaPlugin load_cuda_plugin(const std::string& path) {
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = ::dlerror();
    fail("the cuda backend cannot be loaded: {}", reason ? reason : path);
  }
  auto* const build = reinterpret_cast<CudaPluginBuild*>(::dlsym(library, kCudaPluginBuild));
  auto* const open = reinterpret_cast<OpenCudaPlugin*>(::dlsym(library, kOpenCudaPlugin));
  if (!build || !open) fail("{}: is not a cuda backend: it has no {}", path, kOpenCudaPlugin);
  if (const std::string own = cuda_build_id(HARMONIC_VERSION); own != build())
    fail("{}: is of build {} and the program of {}: build both together", path, build(), own);
  CudaPlugin plugin;
  std::string message;
  if (!open(plugin, message)) fail("{}: {}", path, message);
  return plugin;
}

std::string find_cuda_plugin() {
  constexpr const char* kName = "libharmonic_cuda.so";
  if (const char* named = std::getenv("HARMONIC_CUDA_PLUGIN"); named && *named) return named;
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const auto& path : {folder / kName, folder.parent_path() / "lib" / kName})
    if (std::filesystem::exists(path, ignored)) return path.string();
  fail(
      "there is no cuda backend: {} is neither in {} nor in the folder lib beside it; it is built where nvcc "
      "is "
      "found",
      kName, folder.string());
}

const CudaPlugin& cuda_plugin() {
  static const CudaPlugin plugin = load_cuda_plugin(find_cuda_plugin());
  return plugin;
}

}  // namespace harmonic
