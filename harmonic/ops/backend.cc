#include "harmonic/ops/backend.h"

#include "harmonic/ops/simd_targets.h"

namespace harmonic {
namespace {

template <typename... Ops>
OpTable<Ops...> reference_table(const OpTable<Ops...>*) {
  return {{static_cast<void (*)(Context&, const Ops&)>(&reference::run)...}};
}
template <typename... Ops>
OpTable<Ops...> cpu_table(const OpTable<Ops...>*) {
  return {{static_cast<void (*)(Context&, const Ops&)>(&cpu::run)...}};
}

}  // namespace

const Backend& reference_backend() {
  static const Backend backend{"reference", DType::f64, Device::cpu,
                               reference_table(static_cast<const AllOps*>(nullptr)), nullptr};
  return backend;
}

const Backend& cpu_backend() {
  static const Backend backend = [] {
    require_simd();
    return Backend{"cpu", DType::f32, Device::cpu, cpu_table(static_cast<const AllOps*>(nullptr)), nullptr};
  }();
  return backend;
}

}  // namespace harmonic
