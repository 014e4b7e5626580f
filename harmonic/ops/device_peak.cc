#include "harmonic/ops/device_peak.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "harmonic/base/random.h"
#include "harmonic/ops/machine_peak.h"

namespace harmonic {
namespace {

constexpr int64_t kSide = 8192;            // of square matrices: 256 MiB of f32
constexpr int64_t kArrayRows = 4 * kSide;  // of an array: a GiB, which no cache holds

// A card at work for a yardstick.
class Workbench {
 public:
  Workbench(ThreadPool& pool, const Backend& backend)
      : backend_(backend), memory_(backend.memory), scratch_(backend.memory), context_{pool, scratch_} {}

  Tensor matrix(int64_t rows) { return memory_.tensor(rows, kSide, DType::f32); }
  // Random numbers, since products of plainer ones take less power and time: rows of a table, which the card
  // repeats.
  Tensor filled(int64_t rows) {
    constexpr int64_t kWords = 61;
    const Tensor table = matrix(kWords), result = matrix(rows);
    const Random random(1, stream_of("a yardstick"));
    for (int64_t i = 0; i < table.size(); ++i)
      table.as<float>()[i] = static_cast<float>(2 * random.uniform(static_cast<uint64_t>(i)) - 1);
    std::vector<int32_t> words(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) words[static_cast<size_t>(r)] = static_cast<int32_t>(r % kWords);
    run(Embedding{{words.data(), 1, rows, rows, DType::i32, Device::cpu}, table, {}, result});
    return result;
  }
  // The packed form of filled() numbers of bf16.
  Tensor filled_bf16(int64_t rows) {
    const int64_t size = packed_weight_size(rows, kSide, DType::bf16, Device::cuda);
    const Tensor packed = memory_.tensor(1, size, DType::bf16);
    run(PackWeight{filled(rows), packed, DType::bf16});
    return packed;
  }
  // Of the fastest of some runs, after one that does not count.
  template <typename Op>
  double seconds_of(const Op& op) {
    constexpr int kRuns = 10;
    double best = 1e9;
    for (int turn = 0; turn <= kRuns; ++turn) {
      const auto start = std::chrono::steady_clock::now();
      run(op);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (turn > 0) best = std::min(best, seconds);
    }
    return best;
  }

 private:
  template <typename Op>
  void run(const Op& op) {
    backend_(context_, op);
    backend_.synchronize();
  }

  const Backend& backend_;
  Arena memory_, scratch_;
  Context context_;
};

}  // namespace

double measure_matrix_peak(ThreadPool& pool, const Backend& backend) {
  if (backend.device == Device::cpu) return measure_matrix_peak(pool, backend.precision);
  Workbench bench(pool, backend);
  Linear product{};
  product.y = bench.matrix(kSide);
  if (backend.precision == Precision::bf16) {
    // Both matrices as the units read them, so that no rounding is a part of it.
    product.x = bench.filled_bf16(kSide);
    product.x.rows = product.x.cols = product.x.stride = kSide;
    product.weight = {nullptr, kSide, kSide, kSide, DType::f32, Device::cuda};
    product.packed = bench.filled_bf16(kSide);
  } else {
    product.x = bench.filled(kSide);
    product.weight = bench.filled(kSide);
  }
  return 2.0 * kSide * kSide * kSide / bench.seconds_of(product);
}

double measure_bandwidth(ThreadPool& pool, const Backend& backend) {
  if (backend.device == Device::cpu) return measure_bandwidth(pool);
  Workbench bench(pool, backend);
  const Add sum{bench.filled(kArrayRows), bench.filled(kArrayRows), bench.matrix(kArrayRows)};
  return 3.0 * kArrayRows * kSide * sizeof(float) / bench.seconds_of(sum);
}

}  // namespace harmonic
