// Backward goes through a tile of kScanTile rows from its border once to find the states every few rows, then
// from the end through these subtiles, whose states fit in the first cache: computing a state twice is
// cheaper than fetching it from the second cache.
//
// With rates r_i (all 1 for one decay a channel), a_i = exp(-delta r_i) and da_i its gradient,
//   ddt = (u dx - sum_i r_i a_i da_i) sigmoid(dt)     x = delta u, what a key writes; dx its gradient
//   dr_i = -sum over rows of delta a_i da_i           r_i = exp(a_log_i), so that da_log_i = r_i dr_i
// sigmoid(dt) comes from the same e as the decay, never as 1 - a.
#include "harmonic/ops/selective_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/selective_scan_backward_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <cstddef>

#include "harmonic/ops/selective_scan-inl.h"

#ifndef HARMONIC_OPS_SELECTIVE_SCAN_BACKWARD_CPU_ONCE_
#define HARMONIC_OPS_SELECTIVE_SCAN_BACKWARD_CPU_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kSubRows = 4;  // of a subtile

struct BackwardMemory {
  // Of a tile:
  float a[kScanTile][kBlock];  // decay or delta, as in Recur; becomes sum_i r_i a_i da_i
  float x[kScanTile][kBlock];  // becomes its gradient
  float delta[kScanTile][kBlock];
  float rise[kScanTile][kBlock];  // sigmoid(dt)
  float dskip[kBlock];            // its sum over the tile
  // Of a subtile:
  float y[kSubRows][kBlock];     // S query + skip u
  float dout[kSubRows][kBlock];  // gradient of y
  float dz[kSubRows][kBlock];    // dz over y
  // Of a row:
  float partials[2 * kStates][16];  // of the sums over channels: dquery's, then dkey's
  // The states before each subtile and after each row of the one at hand: for each vector of channels in turn
  // its 16 numbers. (Not cleared: missing channels come out as zeros by themselves.)
  StateBlock start;
  float borders[kScanTile / kSubRows][kStates * kBlock];
  float states[kSubRows][kStates * kBlock];
  float decays[kSubRows][kStates * kBlock];  // where there are rates
  // Of the thread's share: gradient of each block's state after the row at hand, from later rows; its rates
  // and the sum over the segment's rows of delta a_i da_i.
  StateBlock dstate[kMostBlocks], rates[kMostBlocks], drates[kMostBlocks];
};

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// Sums of 16 rows of 16 partial sums each: out[i] = the sum of partials[i], as the tree
// (l + (l+8)) + ((l+4) + (l+12)), then lanes l + (l+2), then l + (l+1).
HWY_INLINE void ReducePartials(const float (*partials)[16], float* out) {
  const hn::CappedTag<float, 16> d;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  using V = hn::Vec<decltype(d)>;
  constexpr int64_t kBlocks = kLanes / 4;  // of 128 bits
  // A vector of the result has numbers first + 4 * block + lane.
  for (int64_t first = 0; first < 16; first += kLanes) {
    V quarters[4];  // in block b, the four sums left of number first + 4 b + lane
#pragma GCC unroll 4
    for (int64_t lane = 0; lane < 4; ++lane) {
      const int64_t i = first + lane;
      if constexpr (kBlocks == 4) {
        const auto halves = [&](int64_t low, int64_t high) HWY_ATTR {
          const V a = hn::Load(d, partials[low]), b = hn::Load(d, partials[high]);
          return hn::Add(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a));
        };
        const V even = halves(i, i + 8), odd = halves(i + 4, i + 12);
        quarters[lane] =
            hn::Add(hn::OddEvenBlocks(odd, even), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(even, odd)));
      } else if constexpr (kBlocks == 2) {
        const auto halves = [&](int64_t row) HWY_ATTR {
          return hn::Add(hn::Load(d, partials[row]), hn::Load(d, partials[row] + 8));
        };
        const V even = halves(i), odd = halves(i + 4);
        quarters[lane] =
            hn::Add(hn::OddEvenBlocks(odd, even), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(even, odd)));
      } else {
        const float* p = partials[i];
        quarters[lane] = hn::Add(hn::Add(hn::Load(d, p), hn::Load(d, p + 8)),
                                 hn::Add(hn::Load(d, p + 4), hn::Load(d, p + 12)));
      }
    }
    // Lanes 0 and 1 of a pair: its first and its second number, their sums still in two.
    const V pair0 = hn::Add(hn::InterleaveLower(d, quarters[0], quarters[1]),
                            hn::InterleaveUpper(d, quarters[0], quarters[1]));
    const V pair1 = hn::Add(hn::InterleaveLower(d, quarters[2], quarters[3]),
                            hn::InterleaveUpper(d, quarters[2], quarters[3]));
    const auto low = hn::BitCast(d64, pair0), high = hn::BitCast(d64, pair1);
    hn::StoreU(hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, low, high)),
                       hn::BitCast(d, hn::InterleaveUpper(d64, low, high))),
               d, out + first);
  }
}

// One row of the recurrence, backward.
struct RecurBackCall {
  const float *key, *query;
  const float *before, *after, *decays;  // states before and after, and decays, as Recur keeps them
  const float *dout, *delta;
  float *a, *x;  // [kBlock]; become sum_i r_i a_i da_i and dx
  StateBlock* dstate;
  const StateBlock* rates;
  StateBlock* drates;
  float (*partials)[16];
  float* sums;  // receives the block's part of dquery, then of dkey
};

// kChain: 16 channels so many times. each(i) is called for each of the 16 numbers.
template <bool kRates, int64_t kChain, class Each>
HWY_INLINE void RecurBack(const RecurBackCall& call, const Each& each) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  // 16 partial sums a block, partial l over channels l, l + 16, l + 32, l + 48 in order: vectors part,
  // part + kParts, ... together hold lanes of the same partials.
  for (int64_t part = 0; part < kParts; ++part) {
    V dout_v[kChain], a_v[kChain], x_v[kChain], dx[kChain], da[kChain];
#pragma GCC unroll 4
    for (int64_t j = 0; j < kChain; ++j) {
      const int64_t l = (j * kParts + part) * kLanes;
      dout_v[j] = hn::Load(d, call.dout + l);
      a_v[j] = hn::Load(d, (kRates ? call.delta : call.a) + l);
      x_v[j] = hn::Load(d, call.x + l);
      dx[j] = da[j] = hn::Zero(d);
    }
    for (int64_t i = 0; i < kStates; ++i) {
      if (part == 0) each(i);
      const V k = hn::Set(d, call.key[i]), q = hn::Set(d, call.query[i]);
      V dquery = hn::Zero(d), dkey = hn::Zero(d);
#pragma GCC unroll 4
      for (int64_t j = 0; j < kChain; ++j) {
        const int64_t v = j * kParts + part;
        const int64_t at = (v * kStates + i) * kLanes;
        float* ds_at = (*call.dstate)[i] + v * kLanes;
        const V ds = hn::MulAdd(dout_v[j], q, hn::Load(d, ds_at));
        dquery = hn::MulAdd(dout_v[j], hn::Load(d, call.after + at), dquery);
        dkey = hn::MulAdd(ds, x_v[j], dkey);
        dx[j] = hn::MulAdd(ds, k, dx[j]);
        const V before = hn::Load(d, call.before + at);
        V kept;
        if constexpr (kRates) {
          kept = hn::Mul(ds, hn::Load(d, call.decays + at));
          const V a_da = hn::Mul(kept, before);
          da[j] = hn::MulAdd(a_da, hn::Load(d, (*call.rates)[i] + v * kLanes), da[j]);
          float* drate = (*call.drates)[i] + v * kLanes;
          hn::Store(hn::MulAdd(a_da, a_v[j], hn::Load(d, drate)), d, drate);
        } else {
          kept = hn::Mul(ds, a_v[j]);
          da[j] = hn::MulAdd(kept, before, da[j]);
        }
        hn::Store(kept, d, ds_at);
      }
      hn::Store(dquery, d, call.partials[i] + part * kLanes);
      hn::Store(dkey, d, call.partials[kStates + i] + part * kLanes);
    }
#pragma GCC unroll 4
    for (int64_t j = 0; j < kChain; ++j) {
      const int64_t l = (j * kParts + part) * kLanes;
      hn::Store(dx[j], d, call.x + l);
      hn::Store(da[j], d, call.a + l);
    }
  }
  ReducePartials(call.partials, call.sums);
  ReducePartials(call.partials + kStates, call.sums + kStates);
}

// Part `part` of a share: the coefficients of tile k, and the states before each of its subtiles. `next` are
// the rows of the tile that follows, the one before it.
template <bool kRates>
HWY_INLINE void PrepareTile(const SelectiveScanBackward& op, const ScanItem& share, int64_t part, int64_t k,
                            int64_t rows, const NextRows& next, BackwardMemory& memory) {
  const ScanItem item = block_of(share, part);
  const int64_t first = op.segments.begin(item.segment) + k * kScanTile;
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t c = item.channel;
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, item.width, Out(memory.a[t], memory.x[t], memory.delta[t], memory.rise[t]),
            In(op.u.row<float>(first + t) + c, op.dt.row<float>(first + t) + c),
            [d](auto u, auto dt, auto& a, auto& x, auto& delta, auto& rise) HWY_ATTR {
              const V e = ExpOfMinusAbs(d, dt);
              Sigmoids(d, dt, e, rise, a);
              delta = Softplus(d, dt, e);
              if constexpr (kRates) a = delta;
              x = hn::Mul(delta, u);
            });
  }
  load_state(op.borders.row<float>(item.tile + k), op.u.cols, item, memory.start);
  for (int64_t v = 0; v < sixteens_of(item) * kParts; ++v) {
    const int64_t l = v * kLanes;
    float* border = memory.borders[0] + l * kStates;
    for (int64_t i = 0; i < kStates; ++i) hn::Store(hn::Load(d, memory.start[i] + l), d, border + i * kLanes);
    for (int64_t t = 0; t + kSubRows < rows; t += kSubRows) {
      float* after = border + kStates * kBlock;
      std::copy_n(border, kStates * kLanes, after);
      const auto fetch = [&](int64_t row) HWY_ATTR {
        next.fetch<0>((part * kVectors + v) * kScanTile + t + row, op.u, op.dt);
      };
      Recur<false, false, kRates>({.rows = kSubRows,
                                   .a = memory.a[t] + l,
                                   .x = memory.x[t] + l,
                                   .rates = memory.rates[part][0] + l,
                                   .key = op.key.row<float>(first + t),
                                   .key_stride = op.key.stride,
                                   .query = nullptr,
                                   .query_stride = 0,
                                   .y = nullptr,
                                   .state = after,
                                   .state_stride = kLanes,
                                   .kept = nullptr,
                                   .kept_a = nullptr},
                                  fetch);
      border = after;
    }
  }
}

// The gradients of part `part` of a share over a subtile: the rows that begin at row `at` of tile k.
template <bool kRates>
HWY_INLINE void SubtileBackward(const SelectiveScanBackward& op, const ScanItem& share, int64_t part,
                                int64_t k, int64_t at, int64_t rows, const NextRows& next,
                                BackwardMemory& memory, float* sums) {
  const ScanItem item = block_of(share, part);
  const int64_t r = op.segments.begin(item.segment) + k * kScanTile + at;
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t c = item.channel, width = item.width;
  const float* skip = op.skip.row<float>(0) + c;
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, width, Out(memory.y[t], memory.dout[t], memory.dz[t]),
            In(op.u.row<float>(r + t) + c, op.z.row<float>(r + t) + c, op.dy.row<float>(r + t) + c, skip),
            [d](auto u, auto z, auto dy, auto skip_v, auto& y, auto& dout, auto& dz) HWY_ATTR {
              y = hn::Mul(skip_v, u);
              V gate, rest;
              Sigmoids(d, z, gate, rest);
              const V dgated = hn::Mul(dy, gate);
              dout = hn::Mul(dgated, z);
              dz = hn::Mul(dgated, hn::MulAdd(z, rest, hn::Set(d, 1.0f)));
            });
  }
  if (k > 0) {  // the next tile's border, some of its numbers with each subtile
    constexpr int64_t kNumbers = kStates * kSubRows / kScanTile;
    const float* first = op.borders.row<float>(item.tile + k - 1) + at / kSubRows * kNumbers * op.u.cols + c;
    for (int64_t i = 0; i < kNumbers; ++i) row_math::expect_read(first + i * op.u.cols, width);
  }
  float* border = memory.borders[at / kSubRows];
  for (int64_t v = 0; v < sixteens_of(item) * kParts; ++v) {
    const int64_t l = v * kLanes;
    const auto fetch = [&](int64_t t) HWY_ATTR {
      next.fetch<0>((part * kVectors + v) * kScanTile + kScanTile - 1 - at - t, op.z, op.dy);
    };
    Recur<true, true, kRates>({.rows = rows,
                               .a = memory.a[at] + l,
                               .x = memory.x[at] + l,
                               .rates = memory.rates[part][0] + l,
                               .key = op.key.row<float>(r),
                               .key_stride = op.key.stride,
                               .query = op.query.row<float>(r),
                               .query_stride = op.query.stride,
                               .y = memory.y[0] + l,
                               .state = border + l * kStates,
                               .state_stride = kLanes,
                               .kept = memory.states[0] + l * kStates,
                               .kept_a = memory.decays[0] + l * kStates},
                              fetch);
  }
  for (int64_t t = rows - 1; t >= 0; --t) {
    const auto fetch = [&](int64_t i) HWY_ATTR {
      if (i < kVectors)
        next.fetch<1>((part * kScanTile + kScanTile - 1 - at - t) * kVectors + i, op.du, op.dz, op.ddt);
    };
    const RecurBackCall call = {.key = op.key.row<float>(r + t),
                                .query = op.query.row<float>(r + t),
                                .before = t > 0 ? memory.states[t - 1] : border,
                                .after = memory.states[t],
                                .decays = memory.decays[t],
                                .dout = memory.dout[t],
                                .delta = memory.delta[at + t],
                                .a = memory.a[at + t],
                                .x = memory.x[at + t],
                                .dstate = &memory.dstate[part],
                                .rates = &memory.rates[part],
                                .drates = &memory.drates[part],
                                .partials = memory.partials,
                                .sums = sums + (r + t) * 2 * kStates};
    switch (sixteens_of(item)) {
      case 1:
        RecurBack<kRates, 1>(call, fetch);
        break;
      case 2:
        RecurBack<kRates, 2>(call, fetch);
        break;
      case 3:
        RecurBack<kRates, 3>(call, fetch);
        break;
      default:
        static_assert(kBlock == 4 * 16);
        RecurBack<kRates, 4>(call, fetch);
    }
  }
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, width,
            Out(op.du.row<float>(r + t) + c, op.dz.row<float>(r + t) + c, op.ddt.row<float>(r + t) + c,
                memory.dskip),
            In(op.u.row<float>(r + t) + c, skip, memory.a[at + t], memory.x[at + t], memory.y[t],
               memory.dout[t], memory.dz[t], memory.delta[at + t], memory.rise[at + t], memory.dskip),
            [](auto u, auto skip_v, auto a_da, auto dx, auto y, auto dout, auto dz_over_y, auto delta,
               auto rise, auto dskip, auto& du, auto& dz, auto& ddt, auto& dskip_out) HWY_ATTR {
              du = hn::MulAdd(dx, delta, hn::Mul(skip_v, dout));
              dz = hn::Mul(dz_over_y, y);
              ddt = hn::Mul(hn::MulSub(u, dx, a_da), rise);
              dskip_out = hn::MulAdd(dout, u, dskip);
            });
  }
}

// The gradients of part `part` of a share over tile k.
template <bool kRates>
HWY_INLINE void TileBackward(const SelectiveScanBackward& op, const ScanItem& share, int64_t part, int64_t k,
                             int64_t rows, const NextRows& next, BackwardMemory& memory, float* sums) {
  PrepareTile<kRates>(op, share, part, k, rows, next, memory);
  for (int64_t at = (rows - 1) / kSubRows * kSubRows; at >= 0; at -= kSubRows)
    SubtileBackward<kRates>(op, share, part, k, at, std::min(kSubRows, rows - at), next, memory, sums);
}

// The gradients of an item. sums: for each block of all channels, and each row of the op, the block's part of
// dquery and dkey, 2 * kStates. dskip and da_log receive the sums over the segment.
void SelectiveBackward(const SelectiveScanBackward& op, const ScanItem& share, BackwardMemory& memory,
                       float* sums, float* dskip, float* da_log) {
  const int64_t begin = op.segments.begin(share.segment), length = op.segments.length(share.segment);
  const int64_t N = op.u.cols, sums_of_block = op.u.rows * 2 * kStates;
  std::fill_n(memory.dstate[0][0], kMostBlocks * kStates * kBlock, 0.0f);
  if (op.a_log) std::fill_n(memory.rates[0][0], 2 * kMostBlocks * kStates * kBlock, 0.0f);  // and drates
  for (int64_t i = 0; i < blocks_of(share); ++i) {
    if (op.dstate_out)
      load_state(op.dstate_out.row<float>(share.segment), N, block_of(share, i), memory.dstate[i]);
    if (op.a_log) LoadRates(op.a_log, block_of(share, i), memory.rates[i]);
  }
  std::fill_n(dskip, share.width, 0.0f);
  for (int64_t k = ceil_div(length, kScanTile) - 1; k >= 0; --k) {
    const int64_t rows = std::min(kScanTile, length - k * kScanTile);
    const NextRows next(share, begin + (k - 1) * kScanTile, k > 0 ? kScanTile : 0, kLanes);
    for (int64_t i = 0; i < blocks_of(share); ++i) {
      const ScanItem block = block_of(share, i);
      if (block.width < kBlock)  // missing channels are zeros
        std::fill_n(memory.a[0], offsetof(BackwardMemory, borders) / sizeof(float), 0.0f);
      std::fill_n(memory.dskip, kBlock, 0.0f);
      float* block_sums = sums + block.channel / kBlock * sums_of_block;
      if (op.a_log) {
        TileBackward<true>(op, share, i, k, rows, next, memory, block_sums);
      } else {
        TileBackward<false>(op, share, i, k, rows, next, memory, block_sums);
      }
      row_math::put(memory.dskip, true, dskip + i * kBlock, block.width);
    }
  }
  for (int64_t i = 0; i < blocks_of(share); ++i) {
    const ScanItem block = block_of(share, i);
    if (op.dstate_in) store_state(memory.dstate[i], N, block, op.dstate_in.row<float>(share.segment));
    for (int64_t c = 0; op.a_log && c < block.width; ++c)
      for (int64_t n = 0; n < kStates; ++n)
        da_log[(i * kBlock + c) * kStates + n] = -memory.drates[i][n][c] * memory.rates[i][n][c];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic {
namespace {

HWY_EXPORT(SelectiveBackward);

}  // namespace

void cpu::run(Context& context, const SelectiveScanBackward& op) {
  const ArenaScope scope(context.scratch);
  const int64_t N = op.u.cols, R = op.u.rows, blocks = ceil_div(N, kBlock);
  const ScanShares shares(context, op.segments, N, kMostBlocks * kBlock, op.u.size() * kStates);
  BackwardMemory* memory = context.scratch.allocate_array<BackwardMemory>(shares.workers());
  // Sums over rows, of each segment; then the segments are added in their order.
  float* dskip = context.scratch.allocate_array<float>(op.segments.count * N);
  const int64_t a_logs = op.a_log ? N * kStates : 0;
  float* da_log = context.scratch.allocate_array<float>(op.segments.count * a_logs);
  // Each block's part of dquery and dkey; then the parts are added in the order of blocks.
  float* sums = context.scratch.allocate_array<float>(blocks * R * 2 * kStates);
  shares.for_each([&](const ScanItem& item, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(SelectiveBackward)
    (op, item, memory[worker], sums, dskip + item.segment * N + item.channel,
     op.a_log ? da_log + item.segment * a_logs + item.channel * kStates : nullptr);
  });
  context.pool.parallel_ranges(R, kElementGrain / kStates, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float total[2 * kStates];
      for (int64_t i = 0; i < 2 * kStates; ++i) total[i] = sums[r * 2 * kStates + i];
      for (int64_t block = 1; block < blocks; ++block) {
        const float* part = sums + (block * R + r) * 2 * kStates;
        for (int64_t i = 0; i < 2 * kStates; ++i) total[i] += part[i];
      }
      std::copy_n(total, kStates, op.dquery.row<float>(r));
      std::copy_n(total + kStates, kStates, op.dkey.row<float>(r));
    }
  });
  for (int64_t b = 0; b < op.segments.count; ++b) {
    if (op.dskip) row_math::put(dskip + b * N, true, op.dskip.row<float>(0), N);
    for (int64_t c = 0; op.da_log && c < N; ++c)
      row_math::put(da_log + b * a_logs + c * kStates, true, op.da_log.row<float>(c), kStates);
  }
}

}  // namespace harmonic
#endif  // HWY_ONCE
