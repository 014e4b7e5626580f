// ops: kernels, forward and backward, one contract a file: X.h, X_reference.cc, X_cpu.cc, X_cuda.cu.
//
// Which vector instructions the kernels are compiled for. Every unit that uses Highway includes this first,
// before hwy/foreach_target.h and hwy/highway.h. Only targets with fused multiply-add are compiled: the bits
// of a result are defined with it, and a target without it would give others. Vectors have a size known to
// the compiler, which all lane counts here rely on, so Arm's scalable vectors are left out.
#pragma once

// HWY_AVX3 - 1: what is better than AVX-512 as kernels use it, of which later Highways have more.
#define HWY_DISABLED_TARGETS                                                                            \
  (HWY_SCALAR | HWY_EMU128 | HWY_SSSE3 | HWY_SSE4 | (HWY_AVX3 - 1) | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | \
   HWY_SVE2_128)
#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_AVX2
#endif

#include <hwy/targets.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace harmonic {

// Throws Error when the processor has none of the targets. Kernels do not ask: call it once before the first.
void require_simd();

// The target that kernels run with: "AVX-512", "AVX2" or "NEON".
std::string_view simd_target_name();

// The processor's name, as the system has it; "processor" where it has none.
std::string processor_name();

// Targets that were compiled and that this processor has, best first.
std::vector<std::string_view> simd_target_names();

// While it lives, kernels run with the named target, one of simd_target_names(): for tests and benchmarks
// that compare targets. Not while another thread runs kernels.
class UseSimdTarget {
 public:
  explicit UseSimdTarget(std::string_view name);
  ~UseSimdTarget();
  UseSimdTarget(const UseSimdTarget&) = delete;
  UseSimdTarget& operator=(const UseSimdTarget&) = delete;
};

}  // namespace harmonic
