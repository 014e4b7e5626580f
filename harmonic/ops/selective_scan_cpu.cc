// Channels go by blocks of 64, rows by tiles; a thread takes several adjacent blocks through each tile in
// turn, since memory is fast where whole rows are read. For a tile of a block, element-wise passes turn u, z
// and dt into the coefficients of the recurrence, kept in cache with whole rows of 64 (missing channels are
// zeros); the recurrence then runs over them alone, a vector of channels at a time, its 16 numbers in
// registers.
//
// Backward goes through a tile of kScanTile rows from its border once to find the states every few rows, then
// from the end through these subtiles, whose states fit in the first cache: computing a state twice is
// cheaper than fetching it from the second cache.
//
// exp(-softplus(dt)) is taken as sigmoid(-dt), which it equals: with e = exp(-|dt|) it is 1 / (1 + e) or
// e / (1 + e), exact to rounding on both sides, and e serves softplus(dt) = max(dt, 0) + log(1 + e) as well.
// Its derivative is then -a sigmoid(dt) with sigmoid(dt) from the same e, never as 1 - a, and
//   ddt = (u dx - a da) sigmoid(dt)        x = delta u, what a key writes; dx and da its and a's gradients.
#include "harmonic/ops/selective_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/selective_scan_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>
#include <cstddef>

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/simd_math-inl.h"
#include "harmonic/ops/work_items.h"

#ifndef HARMONIC_OPS_SELECTIVE_SCAN_CPU_ONCE_
#define HARMONIC_OPS_SELECTIVE_SCAN_CPU_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kBlock = 64;        // channels; sums over channels depend on it
constexpr int64_t kMostBlocks = 8;    // of a thread's share
constexpr int64_t kForwardRows = 32;  // of a tile in forward
constexpr int64_t kSubRows = 4;       // of a subtile in backward
constexpr int64_t kStates = kSelectiveState;

// Some channels of one segment: a thread's share, or one block of it.
struct SelectiveItem {
  int64_t segment, tile;  // the segment's first tile
  int64_t channel, width;

  int64_t blocks() const { return ceil_div(width, kBlock); }
  SelectiveItem block(int64_t i) const {
    return {segment, tile, channel + i * kBlock, std::min(kBlock, width - i * kBlock)};
  }
};

struct ForwardMemory {
  float state[kMostBlocks][kStates][kBlock];
  float a[kForwardRows][kBlock], x[kForwardRows][kBlock], y[kForwardRows][kBlock];
};

struct BackwardMemory {
  // Of a tile:
  float a[kScanTile][kBlock];  // becomes a times the gradient of a
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
  float start[kStates][kBlock];
  float borders[kScanTile / kSubRows][kStates * kBlock];
  float states[kSubRows][kStates * kBlock];
  // Of the thread's share: gradient of each block's state after the row at hand, from later rows.
  float dstate[kMostBlocks][kStates][kBlock];
};

// The rows of a share's next tile as vectors in order of addresses. A thread asks for them one after the
// other while it computes: memory is fast in order, and many requests at once would make the processor wait.
struct NextRows {
  NextRows(const SelectiveItem& share, int64_t first_row, int64_t rows, int64_t lanes)
      : row(first_row),
        channel(share.channel),
        width(lanes),
        vectors(share.width / lanes),  // whole ones of a row; what is left over is not asked for
        count(vectors * rows) {}

  // Asks for vector `step`, if there is one, of each tensor, to be read or written.
  template <int kWrite, class... Tensors>
  void fetch(int64_t step, const Tensors&... tensors) const {
    if (step >= count) return;
    const int64_t r = row + step / vectors, c = channel + step % vectors * width;
    (__builtin_prefetch(tensors.template as<float>() + r * tensors.stride + c, kWrite), ...);
  }

  int64_t row, channel, width, vectors, count;
};

// Copies the numbers of an item's channels between a tensor's row and a worker's memory.
void load_state(const float* row, int64_t channels, const SelectiveItem& item, float (*state)[kBlock]) {
  for (int64_t i = 0; i < kStates; ++i) std::copy_n(row + i * channels + item.channel, item.width, state[i]);
}
void store_state(const float (*state)[kBlock], int64_t channels, const SelectiveItem& item, float* row) {
  for (int64_t i = 0; i < kStates; ++i) std::copy_n(state[i], item.width, row + i * channels + item.channel);
}

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(hn::CappedTag<float, 16>());
constexpr int64_t kVectors = kBlock / kLanes;
constexpr int64_t kHeld = HWY_TARGET == HWY_AVX2 ? 8 : 16;  // states in registers at once

// The recurrence of one vector of channels over `rows` rows of coefficients that are kBlock apart; the
// state's numbers are `state_stride` apart. each(t) is called for each row. kOutput: y holds the rows' skip u
// and receives S query + skip u, added in a fixed order: numbers 0..7 to it, numbers 8..15 to each other,
// then both. kKeep: the state after each row goes to `kept`, rows kStates * kBlock apart.
template <bool kOutput, bool kKeep, class Each>
HWY_INLINE void Recur(int64_t rows, const float* a, const float* x, const float* key, int64_t key_stride,
                      const float* query, int64_t query_stride, float* y, float* state, int64_t state_stride,
                      float* kept, const Each& each) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  for (int64_t first = 0; first < kStates; first += kHeld) {
    V s[kHeld];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kHeld; ++i) s[i] = hn::Load(d, state + (first + i) * state_stride);
    for (int64_t t = 0; t < rows; ++t) {
      if (first == 0) each(t);
      const V av = hn::Load(d, a + t * kBlock), xv = hn::Load(d, x + t * kBlock);
      V low = hn::Zero(d), high = hn::Zero(d);
      if (kOutput) low = hn::Load(d, y + t * kBlock);
      const float* k = key + t * key_stride + first;
      const float* q = query + t * query_stride + first;
#pragma GCC unroll 16
      for (int64_t i = 0; i < kHeld; ++i) {
        s[i] = hn::MulAdd(av, s[i], hn::Mul(xv, hn::Set(d, k[i])));
        V& sum = first + i < 8 ? low : high;
        if (kOutput) sum = hn::MulAdd(s[i], hn::Set(d, q[i]), sum);
        if (kKeep) hn::Store(s[i], d, kept + t * kStates * kBlock + (first + i) * kLanes);
      }
      if (kOutput) hn::Store(first + kHeld == kStates ? hn::Add(low, high) : low, d, y + t * kBlock);
    }
    if (!kKeep) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kHeld; ++i) hn::Store(s[i], d, state + (first + i) * state_stride);
    }
  }
}

// Part i of a thread's share: rows [done, done + rows) of the segment.
HWY_INLINE void TileForward(const SelectiveScan& op, const SelectiveItem& share, int64_t part, int64_t done,
                            int64_t rows, float (*state)[kBlock], ForwardMemory& memory) {
  const SelectiveItem item = share.block(part);
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t first = op.segments.begin(item.segment) + done, c = item.channel;
  const float* skip = op.skip.row<float>(0) + c;
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, item.width, Out(memory.a[t], memory.x[t], memory.y[t]),
            In(op.u.row<float>(first + t) + c, op.dt.row<float>(first + t) + c, skip),
            [d](auto u, auto dt, auto skip_v, auto& a, auto& x, auto& y) HWY_ATTR {
              const V e = ExpOfMinusAbs(d, dt);
              V rise;
              Sigmoids(d, dt, e, rise, a);
              x = hn::Mul(Softplus(d, dt, e), u);
              y = hn::Mul(skip_v, u);
            });
  }
  const int64_t next_done = done + rows;
  const NextRows next(share, first + rows,
                      std::min(kForwardRows, op.segments.length(item.segment) - next_done), kLanes);
  const float* border = op.borders && next.count > 0 && next_done % kScanTile == 0
                            ? op.borders.row<float>(item.tile + next_done / kScanTile) + c
                            : nullptr;
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t l = v * kLanes;
    const auto fetch = [&](int64_t t) HWY_ATTR {
      const int64_t step = (part * kVectors + v) * kForwardRows + t;
      next.fetch<0>(step, op.u, op.z, op.dt);
      next.fetch<1>(step, op.y);
      if (border != nullptr && t % 2 == 0) __builtin_prefetch(border + t / 2 * op.u.cols + l, 1);
    };
    Recur<true, false>(rows, memory.a[0] + l, memory.x[0] + l, op.key.row<float>(first), op.key.stride,
                       op.query.row<float>(first), op.query.stride, memory.y[0] + l, state[0] + l, kBlock,
                       nullptr, fetch);
  }
  for (int64_t t = 0; t < rows; ++t) {
    ForEach(d, item.width, Out(op.y.row<float>(first + t) + c),
            In(memory.y[t], op.z.row<float>(first + t) + c),
            [d](auto sum, auto z, auto& y) HWY_ATTR { y = hn::Mul(sum, Silu(d, z)); });
  }
}

void SelectiveForward(const SelectiveScan& op, const SelectiveItem& item, ForwardMemory& memory) {
  const int64_t length = op.segments.length(item.segment), N = op.u.cols;
  if (item.width % kBlock != 0)  // missing channels are zeros
    std::fill_n(reinterpret_cast<float*>(&memory), sizeof memory / sizeof(float), 0.0f);
  for (int64_t i = 0; i < item.blocks(); ++i)
    load_state(op.state_in.row<float>(item.segment), N, item.block(i), memory.state[i]);
  for (int64_t done = 0; done < length; done += kForwardRows) {
    for (int64_t i = 0; i < item.blocks(); ++i) {
      const SelectiveItem block = item.block(i);
      if (op.borders && done % kScanTile == 0)
        store_state(memory.state[i], N, block, op.borders.row<float>(item.tile + done / kScanTile));
      TileForward(op, item, i, done, std::min(kForwardRows, length - done), memory.state[i], memory);
    }
  }
  for (int64_t i = 0; i < item.blocks(); ++i)
    store_state(memory.state[i], N, item.block(i), op.state_out.row<float>(item.segment));
}

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

// One row of the recurrence, backward, between its states `before` and `after`. a and x become a da and dx;
// sums receives the block's part of dquery and dkey. each(i) is called for each of the 16 numbers.
template <class Each>
HWY_INLINE void RecurBack(const float* key, const float* query, const float* before, const float* after,
                          const float* dout, float* a, float* x, float (*dstate)[kBlock],
                          float (*partials)[16], float* sums, const Each& each) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  // 16 partial sums a block, partial l over channels l, l + 16, l + 32, l + 48 in order: vectors part,
  // part + kParts, ... together hold lanes of the same partials.
  constexpr int64_t kParts = 16 / kLanes, kChain = 4;
  for (int64_t part = 0; part < kParts; ++part) {
    V dout_v[kChain], a_v[kChain], x_v[kChain], dx[kChain], da[kChain];
#pragma GCC unroll 4
    for (int64_t j = 0; j < kChain; ++j) {
      const int64_t l = (j * kParts + part) * kLanes;
      dout_v[j] = hn::Load(d, dout + l);
      a_v[j] = hn::Load(d, a + l);
      x_v[j] = hn::Load(d, x + l);
      dx[j] = da[j] = hn::Zero(d);
    }
    for (int64_t i = 0; i < kStates; ++i) {
      if (part == 0) each(i);
      const V k = hn::Set(d, key[i]), q = hn::Set(d, query[i]);
      V dquery = hn::Zero(d), dkey = hn::Zero(d);
#pragma GCC unroll 4
      for (int64_t j = 0; j < kChain; ++j) {
        const int64_t v = j * kParts + part;
        const int64_t at = (v * kStates + i) * kLanes;
        float* ds_at = dstate[i] + v * kLanes;
        const V ds = hn::MulAdd(dout_v[j], q, hn::Load(d, ds_at));
        dquery = hn::MulAdd(dout_v[j], hn::Load(d, after + at), dquery);
        dkey = hn::MulAdd(ds, x_v[j], dkey);
        dx[j] = hn::MulAdd(ds, k, dx[j]);
        const V kept = hn::Mul(ds, a_v[j]);
        da[j] = hn::MulAdd(kept, hn::Load(d, before + at), da[j]);
        hn::Store(kept, d, ds_at);
      }
      hn::Store(dquery, d, partials[i] + part * kLanes);
      hn::Store(dkey, d, partials[kStates + i] + part * kLanes);
    }
#pragma GCC unroll 4
    for (int64_t j = 0; j < kChain; ++j) {
      const int64_t l = (j * kParts + part) * kLanes;
      hn::Store(dx[j], d, x + l);
      hn::Store(da[j], d, a + l);
    }
  }
  ReducePartials(partials, sums);
  ReducePartials(partials + kStates, sums + kStates);
}

// Part `part` of a share: the coefficients of tile k, and the states before each of its subtiles. `next` are
// the rows of the tile that follows, the one before it.
HWY_INLINE void PrepareTile(const SelectiveScanBackward& op, const SelectiveItem& share, int64_t part,
                            int64_t k, int64_t rows, const NextRows& next, BackwardMemory& memory) {
  const SelectiveItem item = share.block(part);
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
              x = hn::Mul(delta, u);
            });
  }
  load_state(op.borders.row<float>(item.tile + k), op.u.cols, item, memory.start);
  const float* key = op.key.row<float>(first);
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t l = v * kLanes;
    float* border = memory.borders[0] + l * kStates;
    for (int64_t i = 0; i < kStates; ++i) hn::Store(hn::Load(d, memory.start[i] + l), d, border + i * kLanes);
    for (int64_t t = 0; t + kSubRows < rows; t += kSubRows) {
      float* after = border + kStates * kBlock;
      std::copy_n(border, kStates * kLanes, after);
      const auto fetch = [&](int64_t row) HWY_ATTR {
        next.fetch<0>((part * kVectors + v) * kScanTile + t + row, op.u, op.dt);
      };
      Recur<false, false>(kSubRows, memory.a[t] + l, memory.x[t] + l, key + t * op.key.stride, op.key.stride,
                          key, 0, nullptr, after, kLanes, nullptr, fetch);
      border = after;
    }
  }
}

// The gradients of part `part` of a share over a subtile: the rows that begin at row `at` of tile k.
HWY_INLINE void SubtileBackward(const SelectiveScanBackward& op, const SelectiveItem& share, int64_t part,
                                int64_t k, int64_t at, int64_t rows, const NextRows& next,
                                BackwardMemory& memory, float* sums) {
  const SelectiveItem item = share.block(part);
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
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t l = v * kLanes;
    const auto fetch = [&](int64_t t) HWY_ATTR {
      next.fetch<0>((part * kVectors + v) * kScanTile + kScanTile - 1 - at - t, op.z, op.dy);
    };
    Recur<true, true>(rows, memory.a[at] + l, memory.x[at] + l, op.key.row<float>(r), op.key.stride,
                      op.query.row<float>(r), op.query.stride, memory.y[0] + l, border + l * kStates, kLanes,
                      memory.states[0] + l * kStates, fetch);
  }
  for (int64_t t = rows - 1; t >= 0; --t) {
    const auto fetch = [&](int64_t i) HWY_ATTR {
      if (i < kVectors)
        next.fetch<1>((part * kScanTile + kScanTile - 1 - at - t) * kVectors + i, op.du, op.dz, op.ddt);
    };
    RecurBack(op.key.row<float>(r + t), op.query.row<float>(r + t), t > 0 ? memory.states[t - 1] : border,
              memory.states[t], memory.dout[t], memory.a[at + t], memory.x[at + t], memory.dstate[part],
              memory.partials, sums + (r + t) * 2 * kStates, fetch);
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

// The gradients of an item. sums: for each block of all channels, and each row of the op, the block's part of
// dquery and dkey, 2 * kStates. dskip receives the sum over the segment.
void SelectiveBackward(const SelectiveScanBackward& op, const SelectiveItem& item, BackwardMemory& memory,
                       float* sums, float* dskip) {
  const int64_t begin = op.segments.begin(item.segment), length = op.segments.length(item.segment);
  const int64_t N = op.u.cols, sums_of_block = op.u.rows * 2 * kStates;
  std::fill_n(memory.dstate[0][0], kMostBlocks * kStates * kBlock, 0.0f);
  for (int64_t i = 0; op.dstate_out && i < item.blocks(); ++i)
    load_state(op.dstate_out.row<float>(item.segment), N, item.block(i), memory.dstate[i]);
  std::fill_n(dskip, item.width, 0.0f);
  for (int64_t k = ceil_div(length, kScanTile) - 1; k >= 0; --k) {
    const int64_t rows = std::min(kScanTile, length - k * kScanTile);
    const NextRows next(item, begin + (k - 1) * kScanTile, k > 0 ? kScanTile : 0, kLanes);
    for (int64_t i = 0; i < item.blocks(); ++i) {
      const SelectiveItem block = item.block(i);
      if (block.width < kBlock)  // missing channels are zeros
        std::fill_n(memory.a[0], offsetof(BackwardMemory, borders) / sizeof(float), 0.0f);
      PrepareTile(op, item, i, k, rows, next, memory);
      std::fill_n(memory.dskip, kBlock, 0.0f);
      for (int64_t at = (rows - 1) / kSubRows * kSubRows; at >= 0; at -= kSubRows)
        SubtileBackward(op, item, i, k, at, std::min(kSubRows, rows - at), next, memory,
                        sums + block.channel / kBlock * sums_of_block);
      row_math::put(memory.dskip, true, dskip + i * kBlock, block.width);
    }
  }
  for (int64_t i = 0; op.dstate_in && i < item.blocks(); ++i)
    store_state(memory.dstate[i], N, item.block(i), op.dstate_in.row<float>(item.segment));
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic {
namespace {

HWY_EXPORT(SelectiveForward);
HWY_EXPORT(SelectiveBackward);

// The shares of threads.
struct Shares {
  Shares(Context& context, const Segments& segments, const Tensor& u)
      : blocks(context.pool, segments.count, u.cols, kMostBlocks * kBlock),
        items(segments.count * blocks.count),
        workers(workers_for(context.pool, items, u.size() * kStates)) {
    first_tile = context.scratch.allocate_array<int64_t>(segments.count);
    int64_t tiles = 0;
    for (int64_t b = 0; b < segments.count; ++b) {
      first_tile[b] = tiles;
      tiles += ceil_div(segments.length(b), kScanTile);
    }
  }

  template <typename Body>
  void for_each(ThreadPool& pool, const Body& body) const {
    parallel_items(pool, items, workers, [&](int64_t i, int64_t worker) {
      const int64_t b = i / blocks.count, block = i % blocks.count;
      body(SelectiveItem{b, first_tile[b], blocks.begin(block), blocks.size(block)}, worker);
    });
  }

  ChannelBlocks blocks;
  int64_t items, workers;
  int64_t* first_tile;  // of each segment
};

}  // namespace

namespace cpu {

void run(Context& context, const SelectiveScan& op) {
  const ArenaScope scope(context.scratch);
  const Shares shares(context, op.segments, op.u);
  ForwardMemory* memory = context.scratch.allocate_array<ForwardMemory>(shares.workers);
  shares.for_each(context.pool, [&](const SelectiveItem& item, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(SelectiveForward)(op, item, memory[worker]);
  });
}

void run(Context& context, const SelectiveScanBackward& op) {
  const ArenaScope scope(context.scratch);
  const int64_t N = op.u.cols, R = op.u.rows, blocks = ceil_div(N, kBlock);
  const Shares shares(context, op.segments, op.u);
  BackwardMemory* memory = context.scratch.allocate_array<BackwardMemory>(shares.workers);
  float* dskip = context.scratch.allocate_array<float>(op.segments.count * N);
  // Each block's part of dquery and dkey; then the parts are added in the order of blocks.
  float* sums = context.scratch.allocate_array<float>(blocks * R * 2 * kStates);
  shares.for_each(context.pool, [&](const SelectiveItem& item, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(SelectiveBackward)
    (op, item, memory[worker], sums, dskip + item.segment * N + item.channel);
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
  if (!op.dskip) return;
  for (int64_t b = 0; b < op.segments.count; ++b)
    row_math::put(dskip + b * N, true, op.dskip.row<float>(0), N);
}

}  // namespace cpu
}  // namespace harmonic
#endif  // HWY_ONCE
