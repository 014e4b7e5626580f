#include "harmonic/ops/backend.h"

#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/ops/matmul.h"
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

template <typename Op, void (*run)(Context&, const Op&)>
void run_in_bf16(Context& context, const Op& op) {
  Context own{context.pool, context.scratch, Precision::bf16};
  run(own, op);
}
template <typename... Ops>
OpTable<Ops...> reference_bf16_table(const OpTable<Ops...>*) {
  return {{&run_in_bf16<Ops, &reference::run>...}};
}
template <typename... Ops>
OpTable<Ops...> cpu_bf16_table(const OpTable<Ops...>*) {
  return {{&run_in_bf16<Ops, &cpu::run>...}};
}

Backend in_bf16(const Backend& backend, std::string_view name, const AllOps& ops) {
  Backend result = backend;
  result.name = name;
  result.ops = ops;
  result.precision = Precision::bf16;
  return result;
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

const Backend& reference_bf16_backend() {
  static const Backend backend = in_bf16(reference_backend(), "reference, bf16",
                                         reference_bf16_table(static_cast<const AllOps*>(nullptr)));
  return backend;
}

const Backend& cpu_bf16_backend() {
  static const Backend backend =
      in_bf16(cpu_backend(), "cpu, bf16", cpu_bf16_table(static_cast<const AllOps*>(nullptr)));
  if (!multiplies_in_bf16())
    fail_usage(
        "precision \"bf16\": the processor, {}, has no bf16 products (AVX-512 BF16 or AMX); use f32, or a "
        "card",
        processor_name());
  return backend;
}

}  // namespace harmonic
