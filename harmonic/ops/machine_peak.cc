#include "harmonic/ops/machine_peak.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/machine_peak.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>
#include <cstdint>

#include "harmonic/ops/amx-inl.h"
#include "harmonic/ops/bf16_instructions.h"
#include "harmonic/ops/bf16_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// More chains than the latency times the number of units, on every target's registers; pairs take longer, and
// the target that has them has twice as many registers.
constexpr int64_t kChainsOfNumbers = 12, kChainsOfPairs = 24;

// Returns the number of floating-point operations done; `sink` keeps them from being removed.
template <bool kPairs>
int64_t Chains(int64_t iterations, float* sink) {
  constexpr int64_t kChains = kPairs ? kChainsOfPairs : kChainsOfNumbers;
  const hn::CappedTag<float, 16> d;
  hn::Vec<decltype(d)> acc[kChains];
#pragma GCC unroll 32
  for (int64_t i = 0; i < kChains; ++i) acc[i] = hn::Set(d, static_cast<float>(i));
  const auto a = hn::Set(d, sink[0]), b = hn::Set(d, sink[1]);
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 32
    for (int64_t i = 0; i < kChains; ++i) {
      if constexpr (kPairs) {
        acc[i] = MultiplyAddPairs(a, b, acc[i]);
      } else {
        acc[i] = hn::MulAdd(acc[i], a, b);
      }
    }
  }
  auto sum = acc[0];
#pragma GCC unroll 32
  for (int64_t i = 1; i < kChains; ++i) sum = hn::Add(sum, acc[i]);
  hn::StoreU(sum, d, sink + 2);
  return iterations * kChains * static_cast<int64_t>(hn::Lanes(d)) * (kPairs ? 4 : 2);
}

int64_t MultiplyAdds(int64_t iterations, float* sink) { return Chains<false>(iterations, sink); }
// Only where the processor has pairs, or tiles (bf16_instructions.h).
int64_t PairMultiplyAdds(int64_t iterations, float* sink) {
  return Chains<kMultipliesPairs>(iterations, sink);
}
int64_t TileMultiplyAdds(int64_t iterations, float* sink) {
#if HWY_TARGET == HWY_AVX3
  HWY_ALIGN float tile[kTileFloats] = {};
  std::fill(tile, tile + kTileFloats, sink[1]);
  constexpr int64_t kLine = kTile * int64_t{sizeof(float)};
  BeginAmx();
  LoadTile<0>(tile, kLine), LoadTile<1>(tile, kLine), LoadTile<2>(tile, kLine), LoadTile<3>(tile, kLine);
  LoadTile<4>(tile, kLine), LoadTile<5>(tile, kLine), LoadTile<6>(tile, kLine), LoadTile<7>(tile, kLine);
  for (int64_t n = 0; n < iterations; ++n) {
    MultiplyAddTiles<0, 4, 6>();
    MultiplyAddTiles<1, 4, 7>();
    MultiplyAddTiles<2, 5, 6>();
    MultiplyAddTiles<3, 5, 7>();
  }
  StoreTile<0>(tile, kLine);
  EndAmx();
  sink[2] = tile[0];
  return iterations * 4 * kTileFloats * 2 * (2 * kTile);
#else
  return PairMultiplyAdds(iterations, sink);
#endif
}

void Triad(int64_t count, const float* b, const float* c, float* a) {
  const hn::CappedTag<float, 16> d;
  const auto scale = hn::Set(d, 0.5f);
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(hn::Lanes(d)))
    hn::Store(hn::MulAdd(scale, hn::Load(d, c + i), hn::Load(d, b + i)), d, a + i);
}

// Four streams, as kernels have several: one alone does not keep the memory busy. `count`: a multiple of 64.
float Read(int64_t count, const float* x) {
  const hn::CappedTag<float, 16> d;
  const int64_t quarter = count / 4;
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t i = 0; i < quarter; i += static_cast<int64_t>(hn::Lanes(d))) {
    s0 = hn::Add(s0, hn::Load(d, x + i));
    s1 = hn::Add(s1, hn::Load(d, x + quarter + i));
    s2 = hn::Add(s2, hn::Load(d, x + 2 * quarter + i));
    s3 = hn::Add(s3, hn::Load(d, x + 3 * quarter + i));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <atomic>
#include <chrono>
#include <functional>
#include <numeric>
#include <vector>

#include "harmonic/base/processors.h"
#include "harmonic/tensor/arena.h"

namespace harmonic {
namespace {

HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(PairMultiplyAdds);
HWY_EXPORT(TileMultiplyAdds);
HWY_EXPORT(Triad);
HWY_EXPORT(Read);

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int64_t kArrayFloats = 16 << 20;  // 64 MB
constexpr int kPasses = 5;

// The median rate of a pass over `floats` floats, pass(begin, end) being called on all threads; the first
// pass, which brings the pages in, does not count.
template <typename Pass>
double median_bytes_per_second(ThreadPool& pool, int64_t floats, int64_t bytes, const Pass& pass) {
  std::vector<double> rates;
  for (int i = 0; i <= kPasses; ++i) {
    const auto start = Clock::now();
    pool.parallel_ranges(floats, 1024, pass);
    if (i > 0) rates.push_back(static_cast<double>(bytes) / seconds_since(start));
  }
  std::nth_element(rates.begin(), rates.begin() + kPasses / 2, rates.end());
  return rates[kPasses / 2];
}

}  // namespace

double measure_matrix_peak(ThreadPool& pool, Precision precision) {
  const bool in_bf16 = precision == Precision::bf16;
  if (in_bf16 && !multiplies_in_bf16()) return 0;
  // Every thread runs for the same time, in short stretches; its fastest one is its peak, since a stretch in
  // which something else had the processor says nothing about the machine.
  const int threads = pool.threads();
  std::vector<double> rates(static_cast<size_t>(threads));
  std::atomic<int> waiting = threads;
  pool.parallel_for(threads, [&](int64_t thread) {
    // Each of the loop's turns waits for all: they are on different threads.
    waiting.fetch_sub(1);
    while (waiting.load() > 0) {
    }
    float sink[2 + 16] = {0.999f, 0.001f};
    double best = 0;
    const auto begin = Clock::now();
    while (seconds_since(begin) < 0.08) {
      const auto start = Clock::now();
      int64_t operations = 0;
      if (!in_bf16) {
        operations = HWY_DYNAMIC_DISPATCH(MultiplyAdds)(200000, sink);
      } else if (bf16_instructions() == Bf16Instructions::tiles) {
        operations = HWY_DYNAMIC_DISPATCH(TileMultiplyAdds)(50000, sink);
      } else {
        operations = HWY_DYNAMIC_DISPATCH(PairMultiplyAdds)(200000, sink);
      }
      best = std::max(best, static_cast<double>(operations) / seconds_since(start));
    }
    rates[static_cast<size_t>(thread)] = best;
  });
  // Threads that share a processor each find the whole of it in some stretch.
  std::sort(rates.begin(), rates.end(), std::greater<>());
  const int processors = std::min(threads, available_processors());
  return std::accumulate(rates.begin(), rates.begin() + processors, 0.0);
}

double measure_bandwidth(ThreadPool& pool) {
  Arena memory;
  float* arrays = memory.zeros(3, kArrayFloats, DType::f32).as<float>();
  return median_bytes_per_second(pool, kArrayFloats, 3 * kArrayFloats * 4, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(Triad)
    (end - begin, arrays + begin, arrays + kArrayFloats + begin, arrays + 2 * kArrayFloats + begin);
  });
}

double measure_read_bandwidth(ThreadPool& pool) {
  Arena memory;
  const float* array = memory.zeros(3, kArrayFloats, DType::f32).as<float>();
  std::atomic<float> total = 0;
  return median_bytes_per_second(
      pool, 3 * kArrayFloats, 3 * kArrayFloats * 4, [&](int64_t begin, int64_t end) {
        total.store(HWY_DYNAMIC_DISPATCH(Read)(end - begin, array + begin), std::memory_order_relaxed);
      });
}

}  // namespace harmonic
#endif  // HWY_ONCE
