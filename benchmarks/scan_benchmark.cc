// The ops over time, beside the memory bandwidth and, for the selective scan, the matrix peak, all measured
// in this run. Bytes are those of the tensors of rows, each read or written once; in backward the states'
// recomputation is part of the time. Usage: scan_benchmark [threads]
#include <cstdio>
#include <cstdlib>

#include "harmonic/ops/causal_conv.h"
#include "harmonic/ops/causal_pool.h"
#include "harmonic/ops/causal_upsample.h"
#include "harmonic/ops/decay_scan.h"
#include "harmonic/ops/machine_peak.h"
#include "harmonic/ops/selective_scan.h"
#include "harmonic/ops/simd_targets.h"
#include "measure.h"

namespace harmonic {
namespace {

class Benchmark {
 public:
  Benchmark(ThreadPool& pool, double bandwidth, double peak)
      : context_{pool, scratch_}, bandwidth_(bandwidth), peak_(peak) {}

  void run(int64_t rows, int64_t channels) {
    const ArenaScope scope(memory_);
    R = rows;
    N = channels;
    const int64_t offsets[] = {0, R};
    segments = {offsets, 1};
    decay();
    selective();
    convolution();
    pooling();
  }

 private:
  Tensor matrix(int64_t rows, int64_t cols) {
    const Tensor tensor = memory_.tensor(rows, cols, DType::f32);
    uint32_t state = 1;
    for (int64_t i = 0; i < rows * cols; ++i) {
      state = state * 1664525u + 1013904223u;
      tensor.as<float>()[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
    }
    return tensor;
  }

  // `numbers`: of each row and channel that come from or go to memory; `operations`: of the recurrence on
  // each.
  template <typename Op>
  void report(const char* name, const Op& op, double numbers, double operations = 0) {
    const double seconds = measure([&] { cpu::run(context_, op); }).median;
    const double elements = static_cast<double>(R) * static_cast<double>(N);
    const double bytes = elements * numbers * sizeof(float) / seconds;
    std::printf("%-24s %7ld %5ld %10.1f %8.2f %9.0f %%", name, R, N, seconds / static_cast<double>(R) * 1e9,
                bytes * 1e-9, bytes / bandwidth_ * 100);
    if (operations > 0) {
      const double flops = elements * operations / seconds;
      std::printf(" %9.1f %7.0f %%", flops * 1e-9, flops / peak_ * 100);
    }
    std::printf("\n");
  }

  void decay() {
    const ArenaScope scope(memory_);
    const Tensor u = matrix(R, N), z = matrix(R, N), g = matrix(R, N), y = matrix(R, N), skip = matrix(1, N);
    const Tensor in = matrix(1, N), out = matrix(1, N), borders = matrix(scan_tiles(segments), N);
    report("decay scan", DecayScan{u, z, g, skip, segments, in, y, out, borders}, 4);
    const Tensor du = matrix(R, N), dz = matrix(R, N), dg = matrix(R, N), dskip = matrix(1, N);
    report("decay scan backward",
           DecayScanBackward{u, z, g, skip, segments, borders, y, {}, du, dz, dg, out, dskip}, 7);
  }

  void selective() {
    const ArenaScope scope(memory_);
    const Tensor u = matrix(R, N), z = matrix(R, N), dt = matrix(R, N), y = matrix(R, N), skip = matrix(1, N);
    const Tensor key = matrix(R, 16), query = matrix(R, 16);
    const Tensor in = matrix(1, 16 * N), out = matrix(1, 16 * N);
    const Tensor borders = matrix(scan_tiles(segments), 16 * N);
    // Forward: S = a S + x key and y += S query, 5 for each of 16. Backward: the same again, then 11: the
    // state's gradient (two multiply-adds' worth less one), and those of query, key, x and a.
    report("selective scan", SelectiveScan{u, z, dt, key, query, skip, {}, segments, in, y, out, borders}, 4,
           16 * 5);
    const Tensor du = matrix(R, N), dz = matrix(R, N), ddt = matrix(R, N), dskip = matrix(1, N);
    const Tensor dkey = matrix(R, 16), dquery = matrix(R, 16);
    report("selective scan backward",
           SelectiveScanBackward{u,
                                 z,
                                 dt,
                                 key,
                                 query,
                                 skip,
                                 {},
                                 segments,
                                 borders,
                                 y,
                                 {},
                                 du,
                                 dz,
                                 ddt,
                                 dkey,
                                 dquery,
                                 out,
                                 dskip,
                                 {}},
           7, 16 * (5 + 11));
  }

  void convolution() {
    const ArenaScope scope(memory_);
    const Tensor x = matrix(R, N), y = matrix(R, N), dx = matrix(R, N);
    const Tensor weight = matrix(N, 4), bias = matrix(1, N), in = matrix(1, 3 * N), out = matrix(1, 3 * N);
    const Tensor dweight = matrix(N, 4), dbias = matrix(1, N);
    report("convolution + silu", CausalConv{x, weight, bias, segments, in, y, out, Activation::silu}, 2);
    report(
        "  its backward",
        CausalConvBackward{x, weight, bias, segments, in, Activation::silu, y, {}, {dx}, out, dweight, dbias},
        3);
  }

  void pooling() {
    const ArenaScope scope(memory_);
    const int64_t phase = 0, block_offsets[] = {0, R / 4};
    const Segments blocks{block_offsets, 1};
    const Tensor x = matrix(R, N), y = matrix(R, N), held = matrix(R / 4 + 1, N), state = matrix(1, N);
    report("pool by 4", CausalPool{x, segments, &phase, 4, blocks, state, held.rows_of(0, R / 4), state},
           1.25);
    report("  its backward",
           CausalPoolBackward{segments, &phase, 4, blocks, held.rows_of(0, R / 4), {}, {y}, state}, 1.25);
    report("upsample by 4", CausalUpsample{held, segments, blocks, &phase, 4, x, y}, 2.25);
    report("  its backward", CausalUpsampleBackward{segments, blocks, &phase, 4, x, {held}}, 1.25);
  }

  Arena memory_, scratch_;
  Context context_;
  double bandwidth_, peak_;
  int64_t R = 0, N = 0;
  Segments segments;
};

}  // namespace
}  // namespace harmonic

int main(int argc, char** argv) {
  using namespace harmonic;
  require_simd();
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 0);
  const double bandwidth = measure_bandwidth(pool), peak = measure_matrix_peak(pool);
  const std::string_view target = simd_target_name();
  std::printf("%d threads, %.*s, %.1f GB/s of memory, %.0f GFLOP/s\n", pool.threads(),
              static_cast<int>(target.size()), target.data(), bandwidth * 1e-9, peak * 1e-9);
  std::printf("%-24s %7s %5s %10s %8s %11s %9s %9s\n", "op", "rows", "N", "ns a row", "GB/s", "of memory",
              "GFLOP/s", "of peak");
  Benchmark benchmark(pool, bandwidth, peak);
  benchmark.run(512, 256);
  benchmark.run(16384, 256);
  benchmark.run(32768, 512);
}
