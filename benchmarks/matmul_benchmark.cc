// The matrix product beside the machine's peak, and with few rows beside its memory's bandwidth, all measured
// in this run. Usage: matmul_benchmark [threads]
//   forward: Y = X W^T, X [M,K], W [N,K];  dX: = dY W, W [K,N];  dW: += dY^T X, sums over K tokens
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

#include "harmonic/ops/machine_peak.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/simd_targets.h"
#include "measure.h"

namespace harmonic {
namespace {

// Values between -0.5 and 0.5, so that sums stay ordinary numbers.
float* fill(Arena& arena, int64_t count) {
  float* x = arena.allocate_array<float>(count);
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    x[i] = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
  }
  return x;
}

enum class Form { forward, dx, dw };

struct Shape {
  Form form;
  int64_t M, N, K;
};
const Shape kShapes[] = {
    {Form::forward, 1024, 64, 64},    {Form::forward, 4096, 128, 128},   {Form::forward, 4096, 512, 128},
    {Form::forward, 4096, 128, 512},  {Form::forward, 4096, 256, 256},   {Form::forward, 4096, 1024, 256},
    {Form::forward, 4096, 512, 512},  {Form::forward, 4096, 1024, 1024}, {Form::forward, 16384, 256, 256},
    {Form::forward, 1024, 8192, 256}, {Form::forward, 256, 50257, 256},  {Form::forward, 64, 512, 512},
    {Form::forward, 16, 512, 512},    {Form::dx, 4096, 128, 128},        {Form::dx, 4096, 256, 512},
    {Form::dx, 4096, 512, 1024},      {Form::dx, 256, 256, 50257},       {Form::dw, 128, 128, 8192},
    {Form::dw, 256, 256, 8192},       {Form::dw, 512, 128, 4096},        {Form::dw, 1024, 512, 4096},
    {Form::dw, 64, 64, 16384},        {Form::dw, 8192, 256, 1024},
};

void print_products(ThreadPool& pool, double peak) {
  std::printf("%-8s %6s %6s %6s %10s %8s %8s\n", "product", "M", "N", "K", "GFLOP/s", "of peak", "fastest");
  Arena memory, scratch;
  for (const Shape& s : kShapes) {
    const ArenaScope scope(memory);
    const float* a = fill(memory, s.M * s.K);
    const float* b = fill(memory, s.K * s.N);
    float* c = fill(memory, s.M * s.N);
    const MatrixView by_rows = {a, s.K, 1}, by_columns = {a, 1, s.M};
    const Times seconds = measure([&] {
      switch (s.form) {
        case Form::forward:
          return matmul(pool, scratch, s.M, s.N, s.K, by_rows, {b, 1, s.K}, c, s.N);
        case Form::dx:
          return matmul(pool, scratch, s.M, s.N, s.K, by_rows, {b, s.N, 1}, c, s.N);
        case Form::dw:
          return matmul(pool, scratch, s.M, s.N, s.K, by_columns, {b, s.N, 1}, c, s.N,
                        MatmulMode::accumulate);
      }
    });
    const double operations =
        2.0 * static_cast<double>(s.M) * static_cast<double>(s.N) * static_cast<double>(s.K);
    const double rate = operations / seconds.median;
    const char* name = s.form == Form::forward ? "forward" : s.form == Form::dx ? "dX" : "dW +=";
    std::printf("%-8s %6ld %6ld %6ld %10.1f %7.1f%% %7.1f%%\n", name, s.M, s.N, s.K, rate * 1e-9,
                100 * rate / peak, 100 * operations / seconds.fastest / peak);
  }
}

void print_few_rows(ThreadPool& pool, double bandwidth) {
  std::printf("\n%-8s %6s %6s %6s %10s %12s %10s\n", "packed", "M", "N", "K", "GB/s", "of reading",
              "fastest");
  Arena memory, scratch;
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{512, 512}, {50257, 1024}}) {
    const ArenaScope scope(memory);
    float* packed = memory.allocate_array<float>(packed_size(K, N));
    const PackedMatrix weights = pack_matrix(pool, K, N, {fill(memory, K * N), 1, K}, packed);
    for (const int64_t M : {1, 2, 4, 8, 16}) {
      const ArenaScope inner(memory);
      const float* a = fill(memory, M * K);
      float* c = fill(memory, M * N);
      const Times seconds = measure([&] { matmul_packed(pool, scratch, M, {a, K, 1}, weights, c, N); });
      const auto bytes = static_cast<double>(packed_size(K, N) * 4);
      const double rate = bytes / seconds.median;
      std::printf("%-8s %6ld %6ld %6ld %10.1f %11.1f%% %10.1f\n", N * K < 1 << 20 ? "cached" : "memory", M, N,
                  K, rate * 1e-9, 100 * rate / bandwidth, bytes / seconds.fastest * 1e-9);
    }
  }
}

}  // namespace
}  // namespace harmonic

int main(int argc, char** argv) {
  using namespace harmonic;
  require_simd();
  std::optional<UseSimdTarget> use;
  if (argc > 2) use.emplace(argv[2]);
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 0);
  const double peak = measure_matrix_peak(pool), reading = measure_read_bandwidth(pool);
  std::printf("%.*s, %d threads; peak %.1f GFLOP/s, triad %.1f GB/s, reading %.1f GB/s\n\n",
              static_cast<int>(simd_target_name().size()), simd_target_name().data(), pool.threads(),
              peak * 1e-9, measure_bandwidth(pool) * 1e-9, reading * 1e-9);
  print_products(pool, peak);
  print_few_rows(pool, reading);
  return 0;
}
