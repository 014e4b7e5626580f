#include "harmonic/ops/bf16_products.h"

#include "harmonic/base/checked.h"
#include "harmonic/ops/simd_targets.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace harmonic {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// Linux lets a process use AMX's registers once it has asked, since they make a thread's saved state 8 KB
// larger.
bool may_use_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kTiles = 1u << 24, kBf16 = 1u << 22;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (~edx & (kTiles | kBf16)) != 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Bf16Products best() {
  if (!__builtin_cpu_supports("avx512bf16")) return Bf16Products::none;
  return may_use_tiles() ? Bf16Products::tiles : Bf16Products::pairs;
}
#else
Bf16Products best() { return Bf16Products::none; }
#endif

Bf16Products& chosen() {
  static Bf16Products products = best();
  return products;
}

}  // namespace

Bf16Products bf16_products() {
  // The kernels are part of one target's.
  return (hwy::SupportedTargets() & HWY_TARGETS & HWY_AVX3) != 0 ? chosen() : Bf16Products::none;
}

std::string_view name_of(Bf16Products products) {
  switch (products) {
    case Bf16Products::pairs:
      return "AVX-512 BF16";
    case Bf16Products::tiles:
      return "AMX";
    case Bf16Products::none:
      break;
  }
  return "none";
}

UseBf16Products::UseBf16Products(Bf16Products products) {
  HARMONIC_ASSERT(products <= chosen());
  chosen() = products;
}

UseBf16Products::~UseBf16Products() { chosen() = best(); }

}  // namespace harmonic
