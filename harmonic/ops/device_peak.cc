#include "harmonic/ops/device_peak.h"

#include <algorithm>
#include <chrono>

#include "harmonic/ops/machine_peak.h"

namespace harmonic {
namespace {

constexpr int64_t kSide = 4096, kArray = int64_t{1} << 25;

// Of the fastest of some runs, after one that does not count.
template <typename Op>
double seconds_of(const Backend& backend, Context& context, const Op& op) {
  constexpr int kRuns = 10;
  double best = 1e9;
  for (int run = 0; run <= kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    backend(context, op);
    backend.synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (run > 0) best = std::min(best, seconds);
  }
  return best;
}

// Small integers: the power that products of zeros take would say nothing.
Tensor filled(Arena& memory, int64_t rows, int64_t cols) {
  const Tensor tensor = memory.tensor(rows, cols, DType::f32);
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.as<float>()[i] = static_cast<float>(i % 7) - 3;
  return tensor;
}

}  // namespace

double measure_matrix_peak(ThreadPool& pool, const Backend& backend) {
  if (backend.device == Device::cpu) return measure_matrix_peak(pool, backend.precision);
  Arena memory(backend.memory), scratch(backend.memory);
  Context context{pool, scratch};
  Linear product{};
  product.x = filled(memory, kSide, kSide);
  product.weight = filled(memory, kSide, kSide);
  product.y = filled(memory, kSide, kSide);
  return 2.0 * kSide * kSide * kSide / seconds_of(backend, context, product);
}

double measure_bandwidth(ThreadPool& pool, const Backend& backend) {
  if (backend.device == Device::cpu) return measure_bandwidth(pool);
  Arena memory(backend.memory), scratch(backend.memory);
  Context context{pool, scratch};
  const Add sum{filled(memory, 1, kArray), filled(memory, 1, kArray), filled(memory, 1, kArray)};
  return 3.0 * kArray * sizeof(float) / seconds_of(backend, context, sum);
}

}  // namespace harmonic
