#include "harmonic/ops/decay_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/decay_scan_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/scan_tiles.h"
#include "harmonic/ops/simd_math-inl.h"

#ifndef HARMONIC_OPS_DECAY_SCAN_CPU_ONCE_
#define HARMONIC_OPS_DECAY_SCAN_CPU_ONCE_
namespace harmonic {
namespace {

// A worker's memory: two numbers of each element of a tile, and two of each channel.
struct DecayTile {
  float *a, *b;  // [kScanTile, width]
  float *state, *dskip;

  static DecayTile* of_workers(Context& context, const ScanTiles& tiles) {
    DecayTile* all = context.scratch.allocate_array<DecayTile>(tiles.workers());
    for (int64_t i = 0; i < tiles.workers(); ++i) {
      const auto rows = [&](int64_t count) {
        return context.scratch.allocate_array<float>(count * tiles.width());
      };
      all[i] = {rows(kScanTile), rows(kScanTile), rows(1), rows(1)};
    }
    return all;
  }
};

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// With e = e^g, a = 1 / (1 + e) and sqrt(1 - a^2) = a gain, gain = sqrt(e (e + 2)): nothing cancels. Beyond
// g = 44, where a < 1e-19, e stays what it is there, lest its square overflow.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void DecayOf(D d, V g, V& a, V& gain, V& e_plus_2) {
  const V one = hn::Set(d, 1.0f);
  const V e = ExpBounded(d, g, 44.0f);
  a = hn::Div(one, hn::Add(one, e));
  e_plus_2 = hn::Add(e, hn::Set(d, 2.0f));
  gain = hn::Sqrt(hn::Mul(e, e_plus_2));
}

// The state after: a (s + gain u).
template <class V>
HWY_INLINE V NextState(V a, V gain, V u, V s) {
  return hn::Mul(a, hn::MulAdd(gain, u, s));
}

void DecayForward(const DecayScan& op, const ScanTile& part, const ScanTiles::Before& before,
                  const DecayTile& memory) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t c = part.channel, width = part.width;
  const float* skip = op.skip.row<float>(0) + c;
  float* state = op.state_out.row<float>(part.segment) + c;
  const auto keep_border = [&] {
    if (op.borders) std::copy_n(state, width, op.borders.row<float>(part.tile) + c);
  };
  if (before.is_done()) {
    keep_border();
    for (int64_t r = part.begin; r < part.begin + part.rows; ++r) {
      ForEach(
          d, width, Out(state, op.y.row<float>(r) + c),
          In(op.u.row<float>(r) + c, op.z.row<float>(r) + c, op.g.row<float>(r) + c, skip, state),
          [d](auto u, auto z, auto g, auto skip_v, auto s, auto& s_out, auto& y)
              __attribute__((always_inline)) HWY_ATTR {
                V a, gain, unused;
                DecayOf(d, g, a, gain, unused);
                s_out = NextState(a, gain, u, s);
                y = hn::Mul(hn::MulAdd(skip_v, u, s_out), Silu(d, z));
              });
    }
    return;
  }
  for (int64_t t = 0; t < part.rows; ++t) {
    const int64_t r = part.begin + t;
    ForEach(d, width, Out(memory.a + t * width, memory.b + t * width, op.y.row<float>(r) + c),
            In(op.z.row<float>(r) + c, op.g.row<float>(r) + c),
            [d](auto z, auto g, auto& a, auto& gain, auto& y) HWY_ATTR {
              V unused;
              DecayOf(d, g, a, gain, unused);
              y = Silu(d, z);
            });
  }
  before.wait();
  keep_border();
  for (int64_t t = 0; t < part.rows; ++t) {
    const int64_t r = part.begin + t;
    float* y = op.y.row<float>(r) + c;
    ForEach(d, width, Out(state, y),
            In(op.u.row<float>(r) + c, memory.a + t * width, memory.b + t * width, y, skip, state),
            [](auto u, auto a, auto gain, auto gate, auto skip_v, auto s, auto& s_out, auto& y_out) HWY_ATTR {
              s_out = NextState(a, gain, u, s);
              y_out = hn::Mul(hn::MulAdd(skip_v, u, s_out), gate);
            });
  }
}

// dstate: the gradient of the state after the tile, which becomes the one of the state before it; dskip
// receives its sum over the tile too. Both are [width] and wait for the tile after this one.
void DecayBackward(const DecayScanBackward& op, const ScanTile& part, const ScanTiles::Before& before,
                   const DecayTile& memory, float* dstate, float* dskip) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t c = part.channel, width = part.width;
  const float* skip = op.skip.row<float>(0) + c;
  std::copy_n(op.borders.row<float>(part.tile) + c, width, memory.state);
  std::fill_n(memory.dskip, width, 0.0f);
  // First what the gradient of the state has no part in: du receives the gradient of s + skip u, and dg what
  // the gradient of the state before is to be multiplied by.
  for (int64_t t = 0; t < part.rows; ++t) {
    const int64_t r = part.begin + t;
    ForEach(d, width,
            Out(memory.a + t * width, memory.b + t * width, memory.state, memory.dskip,
                op.du.row<float>(r) + c, op.dz.row<float>(r) + c, op.dg.row<float>(r) + c),
            In(op.u.row<float>(r) + c, op.z.row<float>(r) + c, op.g.row<float>(r) + c,
               op.dy.row<float>(r) + c, skip, memory.state, memory.dskip),
            [d](auto u, auto z, auto g, auto dy, auto skip_v, auto s, auto dskip_v, auto& a, auto& b,
                auto& s_out, auto& dskip_out, auto& dout, auto& dz, auto& dg) HWY_ATTR {
              V gain, e_plus_2, gate, rest;  // sigmoid(z), 1 - sigmoid(z)
              DecayOf(d, g, a, gain, e_plus_2);
              b = hn::Mul(a, gain);
              s_out = NextState(a, gain, u, s);
              // root = sqrt(sigmoid(g) / (1 + a)) = gain / (e + 2), and sigmoid(g) = b root.
              const V root = hn::Div(gain, e_plus_2);
              dg = hn::Mul(root, hn::MulSub(a, u, hn::Mul(b, s)));
              Sigmoids(d, z, gate, rest);
              const V dgated = hn::Mul(dy, gate);
              dz = hn::Mul(hn::Mul(dgated, hn::MulAdd(skip_v, u, s_out)),
                           hn::MulAdd(z, rest, hn::Set(d, 1.0f)));
              dout = hn::Mul(dgated, z);
              dskip_out = hn::MulAdd(dout, u, dskip_v);
            });
  }
  before.wait();
  for (int64_t t = part.rows - 1; t >= 0; --t) {
    float* du = op.du.row<float>(part.begin + t) + c;
    float* dg = op.dg.row<float>(part.begin + t) + c;
    ForEach(d, width, Out(dstate, du, dg),
            In(dstate, du, dg, memory.a + t * width, memory.b + t * width, skip),
            [](auto later, auto dout, auto factor, auto a, auto b, auto skip_v, auto& carried, auto& du_out,
               auto& dg_out) HWY_ATTR {
              const V ds = hn::Add(later, dout);
              du_out = hn::MulAdd(ds, b, hn::Mul(skip_v, dout));
              carried = hn::Mul(a, ds);
              dg_out = hn::Mul(carried, factor);
            });
  }
  row_math::put(memory.dskip, true, dskip, width);
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
  const ScanTiles tiles(context, op.segments, op.u.cols, ScanTiles::Order::forward);
  const DecayTile* memory = DecayTile::of_workers(context, tiles);
  for (int64_t b = 0; b < op.segments.count; ++b)
    std::copy_n(op.state_in.row<float>(b), op.u.cols, op.state_out.row<float>(b));
  tiles.for_each([&](const ScanTile& tile, const ScanTiles::Before& before, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(DecayForward)(op, tile, before, memory[worker]);
  });
}

void run(Context& context, const DecayScanBackward& op) {
  const ArenaScope scope(context.scratch);
  const int64_t N = op.u.cols, count = op.segments.count;
  const ScanTiles tiles(context, op.segments, N, ScanTiles::Order::backward);
  const DecayTile* memory = DecayTile::of_workers(context, tiles);
  float* dstate = context.scratch.allocate_array<float>(count * N);
  float* dskip = context.scratch.allocate_array<float>(count * N);
  std::fill_n(dskip, count * N, 0.0f);
  for (int64_t b = 0; b < count; ++b)
    row_math::put(op.dstate_out ? op.dstate_out.row<float>(b) : nullptr, false, dstate + b * N, N);
  tiles.for_each([&](const ScanTile& tile, const ScanTiles::Before& before, int64_t worker) {
    const int64_t at = tile.segment * N + tile.channel;
    HWY_DYNAMIC_DISPATCH(DecayBackward)(op, tile, before, memory[worker], dstate + at, dskip + at);
  });
  for (int64_t b = 0; b < count; ++b) {
    if (op.dstate_in) std::copy_n(dstate + b * N, N, op.dstate_in.row<float>(b));
    if (op.dskip) row_math::put(dskip + b * N, true, op.dskip.row<float>(0), N);
  }
}

}  // namespace cpu
}  // namespace harmonic
#endif  // HWY_ONCE
