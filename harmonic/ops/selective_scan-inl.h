// The per-target part that both directions of the selective scan share: how channels are cut, and the
// recurrence itself.
//
// Channels go by blocks of 64, rows by tiles; a thread takes several adjacent blocks through each tile in
// turn, since memory is fast where whole rows are read. For a tile of a block, element-wise passes turn u, z
// and dt into the coefficients of the recurrence, kept in cache with rows of 64 (missing channels are zeros);
// the recurrence then runs over as many 16 channels as there are, a vector of them at a time, its 16 numbers
// in registers.
//
// With one decay a channel, a = exp(-softplus(dt)) is taken as sigmoid(-dt), which it equals: with e =
// exp(-|dt|) it is 1 / (1 + e) or e / (1 + e), exact to rounding on both sides, and e serves softplus(dt) =
// max(dt, 0) + log(1 + e) as well. With decays of their own, the recurrence takes delta and computes a =
// exp(-delta rate) for each number.

#if defined(HARMONIC_OPS_SELECTIVE_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_SELECTIVE_SCAN_INL_H_
#undef HARMONIC_OPS_SELECTIVE_SCAN_INL_H_
#else
#define HARMONIC_OPS_SELECTIVE_SCAN_INL_H_
#endif

#include <algorithm>

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/scan_shares.h"
#include "harmonic/ops/selective_scan.h"
#include "harmonic/ops/simd_math-inl.h"

#ifndef HARMONIC_OPS_SELECTIVE_SCAN_ONCE_
#define HARMONIC_OPS_SELECTIVE_SCAN_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kBlock = 64;      // channels; sums over channels depend on it
constexpr int64_t kMostBlocks = 8;  // of a thread's share
constexpr int64_t kStates = kSelectiveState;

using StateBlock = float[kStates][kBlock];  // the numbers of a block's channels

inline int64_t blocks_of(const ScanItem& share) { return ceil_div(share.width, kBlock); }
inline ScanItem block_of(const ScanItem& share, int64_t i) {
  return {share.segment, share.tile, share.channel + i * kBlock, std::min(kBlock, share.width - i * kBlock)};
}

// The rows of a share's next tile as vectors in order of addresses. A thread asks for them one after the
// other while it computes: memory is fast in order, and many requests at once would make the processor wait.
struct NextRows {
  NextRows(const ScanItem& share, int64_t first_row, int64_t rows, int64_t lanes)
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
inline void load_state(const float* row, int64_t channels, const ScanItem& item, StateBlock& state) {
  for (int64_t i = 0; i < kStates; ++i) std::copy_n(row + i * channels + item.channel, item.width, state[i]);
}
inline void store_state(const StateBlock& state, int64_t channels, const ScanItem& item, float* row) {
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
constexpr int64_t kParts = 16 / kLanes;  // vectors of 16 channels, the least that is computed of a block

// How many times 16 channels an item of one block has.
inline int64_t sixteens_of(const ScanItem& item) { return ceil_div(item.width, 16); }
constexpr int64_t kHeld = HWY_TARGET == HWY_AVX2 ? 8 : 16;  // states in registers at once

// rates[i][c] = exp(a_log[c][i]) for the channels of an item.
HWY_INLINE void LoadRates(const Tensor& a_log, const ScanItem& item, StateBlock& rates) {
  const hn::CappedTag<float, 16> d;
  HWY_ALIGN float row[kStates];
  for (int64_t c = 0; c < item.width; ++c) {
    ForEach(d, kStates, Out(row), In(a_log.row<float>(item.channel + c)),
            [d](auto log, auto& rate) HWY_ATTR { rate = Exp(d, log); });
    for (int64_t i = 0; i < kStates; ++i) rates[i][c] = row[i];
  }
}

// What Recur runs over: rows of coefficients kBlock apart, of one vector of channels.
struct RecurCall {
  int64_t rows;
  const float *a, *x;  // a: the decay, or delta where there are rates
  const float* rates;  // numbers kBlock apart; null for one decay a channel
  const float* key;
  int64_t key_stride;
  const float* query;
  int64_t query_stride;
  float* y;      // the rows' skip u; receives S query + skip u
  float* state;  // numbers state_stride apart
  int64_t state_stride;
  float *kept, *kept_a;  // states after, and decays of, each row: rows kStates * kBlock apart
};

// The recurrence. each(t) is called for each row. kOutput: S query is added in a fixed order: numbers 0..7 to
// skip u, numbers 8..15 to each other, then both. kKeep: states (and decays, where there are rates) are kept.
template <bool kOutput, bool kKeep, bool kRates, class Each>
HWY_INLINE void Recur(const RecurCall& call, const Each& each) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  for (int64_t first = 0; first < kStates; first += kHeld) {
    V s[kHeld];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kHeld; ++i) s[i] = hn::Load(d, call.state + (first + i) * call.state_stride);
    for (int64_t t = 0; t < call.rows; ++t) {
      if (first == 0) each(t);
      const V av = hn::Load(d, call.a + t * kBlock), xv = hn::Load(d, call.x + t * kBlock);
      V low = hn::Zero(d), high = hn::Zero(d);
      if (kOutput) low = hn::Load(d, call.y + t * kBlock);
      const float* k = call.key + t * call.key_stride + first;
      const float* q = kOutput ? call.query + t * call.query_stride + first : nullptr;
#pragma GCC unroll 16
      for (int64_t i = 0; i < kHeld; ++i) {
        const int64_t kept = t * kStates * kBlock + (first + i) * kLanes;
        V decay = av;
        if constexpr (kRates) {
          decay = ExpOfNegative(d, hn::Neg(hn::Mul(av, hn::Load(d, call.rates + (first + i) * kBlock))));
          if (kKeep) hn::Store(decay, d, call.kept_a + kept);
        }
        s[i] = hn::MulAdd(decay, s[i], hn::Mul(xv, hn::Set(d, k[i])));
        V& sum = first + i < 8 ? low : high;
        if (kOutput) sum = hn::MulAdd(s[i], hn::Set(d, q[i]), sum);
        if (kKeep) hn::Store(s[i], d, call.kept + kept);
      }
      if (kOutput) hn::Store(first + kHeld == kStates ? hn::Add(low, high) : low, d, call.y + t * kBlock);
    }
    if (!kKeep) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kHeld; ++i) hn::Store(s[i], d, call.state + (first + i) * call.state_stride);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
