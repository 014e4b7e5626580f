#include "harmonic/ops/backend.h"

#include <cstring>

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

void Backend::zero(const Tensor& tensor) const {
  const int64_t element = size_of(tensor.dtype);
  if (fill_zero) return fill_zero(tensor.data, tensor.rows, tensor.cols * element, tensor.stride * element);
  for (int64_t r = 0; r < tensor.rows; ++r)
    std::memset(tensor.rows_of(r, 1).data, 0, static_cast<size_t>(tensor.cols * element));
}

const Backend& reference_backend() {
  static const Backend backend{"reference", DType::f64, Device::cpu,
                               reference_table(static_cast<const AllOps*>(nullptr))};
  return backend;
}

const Backend& cpu_backend() {
  static const Backend backend = [] {
    require_simd();
    return Backend{"cpu", DType::f32, Device::cpu, cpu_table(static_cast<const AllOps*>(nullptr))};
  }();
  return backend;
}

}  // namespace harmonic
