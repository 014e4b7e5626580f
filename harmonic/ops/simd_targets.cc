#include "harmonic/ops/simd_targets.h"

#include <fstream>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

std::string_view target_name(int64_t target) {
  switch (target) {
    case HWY_AVX3:
      return "AVX-512";
    case HWY_AVX2:
      return "AVX2";
    case HWY_NEON:
      return "NEON";
  }
  return "none";
}

}  // namespace

void require_simd() {
  if ((hwy::SupportedTargets() & HWY_TARGETS) == 0)
    fail(
        "this processor has no vector instructions with fused multiply-add: Harmonic needs AVX2 and FMA "
        "(x86-64, 2013 "
        "and later) or AArch64; run it on such a processor, or have the virtual machine pass them through");
}

std::string_view simd_target_name() {
  const std::vector<std::string_view> names = simd_target_names();
  return names.empty() ? "none" : names.front();
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != line.npos) return line.substr(colon + 2);
  }
  return "processor";
}

std::vector<std::string_view> simd_target_names() {
  std::vector<std::string_view> names;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) names.push_back(target_name(target));
  return names;
}

UseSimdTarget::UseSimdTarget(std::string_view name) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target_name(target) == name) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(target);
      return;
    }
  }
  fail("this processor or program has no vector target '{}'", name);
}

UseSimdTarget::~UseSimdTarget() {
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace harmonic
