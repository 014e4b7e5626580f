#include "harmonic/ops/bf16_instructions.h"

#include "harmonic/base/checked.h"
#include "harmonic/ops/matmul_plan.h"

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

Bf16Instructions best() {
  if (!__builtin_cpu_supports("avx512bf16")) return Bf16Instructions::none;
  return may_use_tiles() ? Bf16Instructions::tiles : Bf16Instructions::pairs;
}
#else
Bf16Instructions best() { return Bf16Instructions::none; }
#endif

Bf16Instructions& chosen() {
  static Bf16Instructions instructions = best();
  return instructions;
}

}  // namespace

Bf16Instructions bf16_instructions() { return kernels_multiply_pairs() ? chosen() : Bf16Instructions::none; }

std::string_view name_of(Bf16Instructions instructions) {
  switch (instructions) {
    case Bf16Instructions::pairs:
      return "AVX-512 BF16";
    case Bf16Instructions::tiles:
      return "AMX";
    case Bf16Instructions::none:
      break;
  }
  return "none";
}

UseBf16Instructions::UseBf16Instructions(Bf16Instructions instructions) {
  HARMONIC_ASSERT(instructions <= chosen());
  chosen() = instructions;
}

UseBf16Instructions::~UseBf16Instructions() { chosen() = best(); }

}  // namespace harmonic
