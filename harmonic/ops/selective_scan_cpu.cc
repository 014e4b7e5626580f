#include "harmonic/ops/selective_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/selective_scan_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/selective_scan-inl.h"

#ifndef HARMONIC_OPS_SELECTIVE_SCAN_CPU_ONCE_
#define HARMONIC_OPS_SELECTIVE_SCAN_CPU_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kForwardRows = 32;  // of a tile

struct ForwardMemory {
  StateBlock state[kMostBlocks], rates[kMostBlocks];
  float a[kForwardRows][kBlock], x[kForwardRows][kBlock], y[kForwardRows][kBlock];
};

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// Part i of a thread's share: rows [done, done + rows) of the segment.
template <bool kRates>
HWY_INLINE void TileForward(const SelectiveScan& op, const ScanItem& share, int64_t part, int64_t done,
                            int64_t rows, ForwardMemory& memory) {
  const ScanItem item = block_of(share, part);
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t first = op.segments.begin(item.segment) + done, c = item.channel;
  const float* skip = op.skip.row<float>(0) + c;
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, item.width, Out(memory.a[t], memory.x[t], memory.y[t]),
            In(op.u.row<float>(first + t) + c, op.dt.row<float>(first + t) + c, skip),
            [d](auto u, auto dt, auto skip_v, auto& a, auto& x, auto& y) HWY_ATTR {
              const V e = ExpOfMinusAbs(d, dt);
              const V delta = Softplus(d, dt, e);
              if constexpr (kRates) {
                a = delta;
              } else {
                V rise;
                Sigmoids(d, dt, e, rise, a);
              }
              x = hn::Mul(delta, u);
              y = hn::Mul(skip_v, u);
            });
  }
  const int64_t next_done = done + rows;
  const NextRows next(share, first + rows,
                      std::min(kForwardRows, op.segments.length(item.segment) - next_done), kLanes);
  const float* border = op.borders && next.count > 0 && next_done % kScanTile == 0
                            ? op.borders.row<float>(item.tile + next_done / kScanTile) + c
                            : nullptr;
  for (int64_t v = 0; v < sixteens_of(item) * kParts; ++v) {
    const int64_t l = v * kLanes;
    const auto fetch = [&](int64_t t) HWY_ATTR {
      const int64_t step = (part * kVectors + v) * kForwardRows + t;
      next.fetch<0>(step, op.u, op.z, op.dt);
      next.fetch<1>(step, op.y);
      if (border != nullptr && t % 2 == 0) __builtin_prefetch(border + t / 2 * op.u.cols + l, 1);
    };
    Recur<true, false, kRates>({.rows = rows,
                                .a = memory.a[0] + l,
                                .x = memory.x[0] + l,
                                .rates = memory.rates[part][0] + l,
                                .key = op.key.row<float>(first),
                                .key_stride = op.key.stride,
                                .query = op.query.row<float>(first),
                                .query_stride = op.query.stride,
                                .y = memory.y[0] + l,
                                .state = memory.state[part][0] + l,
                                .state_stride = kBlock,
                                .kept = nullptr,
                                .kept_a = nullptr},
                               fetch);
  }
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, item.width, Out(op.y.row<float>(first + t) + c),
            In(memory.y[t], op.z.row<float>(first + t) + c),
            [d](auto sum, auto z, auto& y) HWY_ATTR { y = hn::Mul(sum, Silu(d, z)); });
  }
}

void SelectiveForward(const SelectiveScan& op, const ScanItem& share, ForwardMemory& memory) {
  const int64_t length = op.segments.length(share.segment), N = op.u.cols;
  if (share.width % kBlock != 0)  // missing channels are zeros
    std::fill_n(reinterpret_cast<float*>(&memory), sizeof memory / sizeof(float), 0.0f);
  for (int64_t i = 0; i < blocks_of(share); ++i) {
    load_state(op.state_in.row<float>(share.segment), N, block_of(share, i), memory.state[i]);
    if (op.a_log) LoadRates(op.a_log, block_of(share, i), memory.rates[i]);
  }
  for (int64_t done = 0; done < length; done += kForwardRows) {
    for (int64_t i = 0; i < blocks_of(share); ++i) {
      if (op.borders && done % kScanTile == 0)
        store_state(memory.state[i], N, block_of(share, i),
                    op.borders.row<float>(share.tile + done / kScanTile));
      const int64_t rows = std::min(kForwardRows, length - done);
      if (op.a_log) {
        TileForward<true>(op, share, i, done, rows, memory);
      } else {
        TileForward<false>(op, share, i, done, rows, memory);
      }
    }
  }
  for (int64_t i = 0; i < blocks_of(share); ++i)
    store_state(memory.state[i], N, block_of(share, i), op.state_out.row<float>(share.segment));
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic {
namespace {

HWY_EXPORT(SelectiveForward);

}  // namespace

void cpu::run(Context& context, const SelectiveScan& op) {
  const ArenaScope scope(context.scratch);
  const ScanShares shares(context, op.segments, op.u.cols, kMostBlocks * kBlock, op.u.size() * kStates);
  ForwardMemory* memory = context.scratch.allocate_array<ForwardMemory>(shares.workers());
  shares.for_each([&](const ScanItem& item, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(SelectiveForward)(op, item, memory[worker]);
  });
}

}  // namespace harmonic
#endif  // HWY_ONCE
