#include "harmonic/ops/decay_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/decay_scan_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/scan_shares.h"
#include "harmonic/ops/simd_math-inl.h"

#ifndef HARMONIC_OPS_DECAY_SCAN_CPU_ONCE_
#define HARMONIC_OPS_DECAY_SCAN_CPU_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kAheadFloats = 2048;  // of a row's channels that are asked for before they are needed
constexpr int64_t kAheadRows = 8;       // the same in backward
constexpr int64_t kTileChannels = 128;  // of a tile in backward, so that it stays in the second cache

// A worker's memory in backward.
struct DecayTile {
  float state[kScanTile + 1][kTileChannels];  // before each row; the last after the last
  float a[kScanTile][kTileChannels];
  float b[kScanTile][kTileChannels];  // sqrt(1 - a^2)
  float dskip[kTileChannels];         // sum over the tile
};

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// a = sigmoid(-g) and b = sqrt(1 - a^2) = sqrt((1 + a) sigmoid(g)), both without cancellation.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void DecayOf(D d, V g, V& a, V& b) {
  V rise;
  Sigmoids(d, g, rise, a);
  b = hn::Sqrt(hn::Mul(hn::Add(hn::Set(d, 1.0f), a), rise));
}

void DecayForward(const DecayScan& op, const ScanItem& item) {
  const hn::CappedTag<float, 16> d;
  const int64_t begin = op.segments.begin(item.segment), length = op.segments.length(item.segment);
  const int64_t c = item.channel;
  const float* skip = op.skip.row<float>(0) + c;
  float* state = op.state_out.row<float>(item.segment) + c;
  std::copy_n(op.state_in.row<float>(item.segment) + c, item.width, state);
  const int64_t ahead = ceil_div(kAheadFloats, item.width);
  for (int64_t t = 0; t < length; ++t) {
    if (op.borders && t % kScanTile == 0)
      std::copy_n(state, item.width, op.borders.row<float>(item.tile + t / kScanTile) + c);
    const int64_t r = begin + t;
    if (t + ahead < length) {
      row_math::expect_read(op.u.row<float>(r + ahead) + c, item.width);
      row_math::expect_read(op.z.row<float>(r + ahead) + c, item.width);
      row_math::expect_read(op.g.row<float>(r + ahead) + c, item.width);
      row_math::expect_write(op.y.row<float>(r + ahead) + c, item.width);
    }
    ForEach(
        d, item.width, Out(state, op.y.row<float>(r) + c),
        In(op.u.row<float>(r) + c, op.z.row<float>(r) + c, op.g.row<float>(r) + c, skip, state),
        [d](auto u, auto z, auto g, auto skip_v, auto s, auto& s_out, auto& y) __attribute__((always_inline))
        HWY_ATTR {
          hn::Vec<decltype(d)> a, b;
          DecayOf(d, g, a, b);
          s_out = hn::MulAdd(a, s, hn::Mul(b, u));
          y = hn::Mul(hn::MulAdd(skip_v, u, s_out), Silu(d, z));
        });
  }
}

// The gradients of tile k of an item of at most kTileChannels. dstate: the gradient of the state after the
// tile, which becomes the one of the state before it. dskip receives its sum over the tile too.
void DecayTileBackward(const DecayScanBackward& op, const ScanItem& item, int64_t k, float* dstate,
                       DecayTile& tile, float* dskip) {
  const hn::CappedTag<float, 16> d;
  const int64_t begin = op.segments.begin(item.segment), length = op.segments.length(item.segment);
  const int64_t c = item.channel, width = item.width;
  const float* skip = op.skip.row<float>(0) + c;
  const int64_t first = begin + k * kScanTile, rows = std::min(kScanTile, length - k * kScanTile);
  std::copy_n(op.borders.row<float>(item.tile + k) + c, width, tile.state[0]);
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t r = first + t;
    ForEach(d, width, Out(tile.a[t], tile.b[t], tile.state[t + 1]),
            In(op.u.row<float>(r) + c, op.g.row<float>(r) + c, tile.state[t]),
            [d](auto u, auto g, auto s, auto& a, auto& b, auto& s_out) HWY_ATTR {
              DecayOf(d, g, a, b);
              s_out = hn::MulAdd(a, s, hn::Mul(b, u));
            });
  }
  std::fill_n(tile.dskip, width, 0.0f);
  for (int64_t t = rows - 1; t >= 0; --t) {
    const int64_t r = first + t;
    if (k > 0) {  // the same row of the next tile
      row_math::expect_read(op.u.row<float>(r - kScanTile) + c, width);
      row_math::expect_read(op.z.row<float>(r - kScanTile) + c, width);
      row_math::expect_read(op.g.row<float>(r - kScanTile) + c, width);
      row_math::expect_read(op.dy.row<float>(r - kScanTile) + c, width);
    }
    if (t >= kAheadRows) {
      row_math::expect_write(op.du.row<float>(r - kAheadRows) + c, width);
      row_math::expect_write(op.dz.row<float>(r - kAheadRows) + c, width);
      row_math::expect_write(op.dg.row<float>(r - kAheadRows) + c, width);
    }
    ForEach(
        d, width,
        Out(op.du.row<float>(r) + c, op.dz.row<float>(r) + c, op.dg.row<float>(r) + c, dstate, tile.dskip),
        In(op.u.row<float>(r) + c, op.z.row<float>(r) + c, op.dy.row<float>(r) + c, skip, tile.a[t],
           tile.b[t], tile.state[t], tile.state[t + 1], dstate, tile.dskip),
        [d](auto u, auto z, auto dy, auto skip_v, auto a, auto b, auto before, auto after, auto later,
            auto dskip_v, auto& du, auto& dz, auto& dg, auto& carried, auto& dskip_out) HWY_ATTR {
          const auto one = hn::Set(d, 1.0f);
          hn::Vec<decltype(d)> gate, rest;  // sigmoid(z), 1 - sigmoid(z)
          Sigmoids(d, z, gate, rest);
          const auto dgated = hn::Mul(dy, gate);
          dz = hn::Mul(hn::Mul(dgated, hn::MulAdd(skip_v, u, after)), hn::MulAdd(z, rest, one));
          const auto dout = hn::Mul(dgated, z);
          dskip_out = hn::MulAdd(dout, u, dskip_v);
          const auto ds = hn::Add(later, dout);
          du = hn::MulAdd(ds, b, hn::Mul(skip_v, dout));
          // With root = sqrt(sigmoid(g) / (1 + a)): db/dg = a^2 root and da/dg = -a sigmoid(g), where
          // root = b / (1 + a) and sigmoid(g) = b root.
          const auto root = hn::Div(b, hn::Add(one, a));
          carried = hn::Mul(a, ds);
          dg = hn::Mul(hn::Mul(carried, root), hn::MulSub(a, u, hn::Mul(b, before)));
        });
  }
  row_math::put(tile.dskip, true, dskip, width);
}

// The gradients of an item. dskip receives the sum over the segment; dstate is a worker's memory.
void DecayBackward(const DecayScanBackward& op, const ScanItem& item, DecayTile& tile, float* dstate,
                   float* dskip) {
  row_math::put(op.dstate_out ? op.dstate_out.row<float>(item.segment) + item.channel : nullptr, false,
                dstate, item.width);
  std::fill_n(dskip, item.width, 0.0f);
  for (int64_t k = ceil_div(op.segments.length(item.segment), kScanTile) - 1; k >= 0; --k) {
    for (int64_t c = 0; c < item.width; c += kTileChannels) {
      const ScanItem part{item.segment, item.tile, item.channel + c, std::min(kTileChannels, item.width - c)};
      DecayTileBackward(op, part, k, dstate + c, tile, dskip + c);
    }
  }
  if (op.dstate_in) std::copy_n(dstate, item.width, op.dstate_in.row<float>(item.segment) + item.channel);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic {
namespace {

HWY_EXPORT(DecayForward);
HWY_EXPORT(DecayBackward);

}  // namespace

namespace cpu {

void run(Context& context, const DecayScan& op) {
  const ArenaScope scope(context.scratch);
  const ScanShares shares(context, op.segments, op.u.cols, round_up(op.u.cols, 64), op.u.size());
  shares.for_each([&](const ScanItem& item, int64_t) { HWY_DYNAMIC_DISPATCH(DecayForward)(op, item); });
}

void run(Context& context, const DecayScanBackward& op) {
  const ArenaScope scope(context.scratch);
  const int64_t N = op.u.cols;
  const ScanShares shares(context, op.segments, N, round_up(N, 64), op.u.size());
  DecayTile* memory = context.scratch.allocate_array<DecayTile>(shares.workers());
  float* dstate = context.scratch.allocate_array<float>(shares.workers() * shares.width());
  float* dskip = context.scratch.allocate_array<float>(op.segments.count * N);
  shares.for_each([&](const ScanItem& item, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(DecayBackward)
    (op, item, memory[worker], dstate + worker * shares.width(), dskip + item.segment * N + item.channel);
  });
  if (!op.dskip) return;
  for (int64_t b = 0; b < op.segments.count; ++b)
    row_math::put(dskip + b * N, true, op.dskip.row<float>(0), N);
}

}  // namespace cpu
}  // namespace harmonic
#endif  // HWY_ONCE
