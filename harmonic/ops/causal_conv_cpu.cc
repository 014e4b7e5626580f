#include "harmonic/ops/causal_conv.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/causal_conv_cpu.cc"
#include <hwy/foreach_target.h>
//
#include <algorithm>

#include "harmonic/ops/row_math.h"
#include "harmonic/ops/simd_math-inl.h"
#include "harmonic/ops/work_items.h"

#ifndef HARMONIC_OPS_CAUSAL_CONV_CPU_ONCE_
#define HARMONIC_OPS_CAUSAL_CONV_CPU_ONCE_
namespace harmonic {
namespace {

constexpr int64_t kWidestKernel = 16;
constexpr int64_t kAheadFloats = 2048;     // of a row's channels that are asked for before they are needed
constexpr int64_t kWidestConvBlock = 512;  // channels of an item in backward
constexpr int64_t kSumRows = 64;  // rows whose gradients of parameters are summed before joining others

// Some channels of one segment, with the weights as rows of all channels: tap k at taps + k * channels.
struct ConvItem {
  int64_t segment;
  int64_t channel, width, channels;
  const float* taps;
};

// A worker's memory in backward. Row K of the sums is the bias's, row k the one of tap k.
struct ConvMemory {
  float before[kWidestConvBlock];                       // the output of a row before its activation
  float gradient[kWidestKernel][kWidestConvBlock];      // of `before`, row t at t % K
  float zero[kWidestConvBlock], row[kWidestConvBlock];  // zeros, and a row on its way to dx
  float sums[kWidestKernel + 1][kWidestConvBlock];
};

}  // namespace
}  // namespace harmonic
#endif

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// out = init + sum over k of taps[k] rows[k], in order of k.
template <int kTaps>
HWY_INLINE void AddTaps(int64_t width, const float* init, const float* const* taps, const float* const* rows,
                        float* out) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  if constexpr (kTaps == 1) {
    ForEach(d, width, Out(out), In(init, taps[0], rows[0]),
            [](auto s, auto w0, auto x0, auto& y) HWY_ATTR { y = hn::MulAdd(w0, x0, s); });
  } else if constexpr (kTaps == 2) {
    ForEach(d, width, Out(out), In(init, taps[0], rows[0], taps[1], rows[1]),
            [](auto s, auto w0, auto x0, auto w1, auto x1, auto& y)
                HWY_ATTR { y = hn::MulAdd(w1, x1, hn::MulAdd(w0, x0, s)); });
  } else {
    static_assert(kTaps == 4);
    ForEach(
        d, width, Out(out), In(init, taps[0], rows[0], taps[1], rows[1], taps[2], rows[2], taps[3], rows[3]),
        [](auto s, auto w0, auto x0, auto w1, auto x1, auto w2, auto x2, auto w3, auto x3, auto& y) HWY_ATTR {
          const V two = hn::MulAdd(w1, x1, hn::MulAdd(w0, x0, s));
          y = hn::MulAdd(w3, x3, hn::MulAdd(w2, x2, two));
        });
  }
}

void AddAllTaps(int64_t width, const float* init, const float* const* taps, const float* const* rows,
                int64_t count, float* out) {
  if (count == 0) {
    std::copy_n(init, width, out);
    return;
  }
  for (int64_t k = 0; k < count; init = out) {
    if (count - k >= 4) {
      AddTaps<4>(width, init, taps + k, rows + k, out);
      k += 4;
    } else if (count - k >= 2) {
      AddTaps<2>(width, init, taps + k, rows + k, out);
      k += 2;
    } else {
      AddTaps<1>(width, init, taps + k, rows + k, out);
      k += 1;
    }
  }
}

// The rows that row t of a segment reads, tap by tap, and the weights.
template <class Op>
HWY_INLINE void GatherTaps(const Op& op, const ConvItem& item, int64_t t, const float** taps,
                           const float** rows) {
  const int64_t K = op.weight.cols;
  for (int64_t k = 0; k < K; ++k) {
    const int64_t from = t - (K - 1) + k;
    taps[k] = item.taps + k * item.channels + item.channel;
    rows[k] = from >= 0 ? op.x.template row<float>(op.segments.begin(item.segment) + from) + item.channel
                        : op.state_in.template row<float>(item.segment) + t * item.channels +
                              k * item.channels + item.channel;
  }
}

void ConvForward(const CausalConv& op, const ConvItem& item) {
  const hn::CappedTag<float, 16> d;
  const float* taps[kWidestKernel];
  const float* rows[kWidestKernel];
  const int64_t begin = op.segments.begin(item.segment), length = op.segments.length(item.segment);
  const int64_t ahead = ceil_div(kAheadFloats, item.width);
  for (int64_t t = 0; t < length; ++t) {
    if (t + ahead < length) {
      row_math::expect_read(op.x.row<float>(begin + t + ahead) + item.channel, item.width);
      row_math::expect_write(op.y.row<float>(begin + t + ahead) + item.channel, item.width);
    }
    GatherTaps(op, item, t, taps, rows);
    float* y = op.y.row<float>(begin + t) + item.channel;
    AddAllTaps(item.width, op.bias.row<float>(0) + item.channel, taps, rows, op.weight.cols, y);
    if (op.activation == Activation::silu)
      ForEach(d, item.width, Out(y), In(y), [d](auto v, auto& out) HWY_ATTR { out = Silu(d, v); });
  }
}

// gradient = dy silu'(before).
void SiluGradient(int64_t width, const float* before, const float* dy, float* gradient) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, width, Out(gradient), In(before, dy), [d](auto x, auto dy_v, auto& out) HWY_ATTR {
    hn::Vec<decltype(d)> gate, rest;  // sigmoid(x), 1 - sigmoid(x)
    Sigmoids(d, x, gate, rest);
    out = hn::Mul(hn::Mul(dy_v, gate), hn::MulAdd(x, rest, hn::Set(d, 1.0f)));
  });
}

// sums[k] += gradient rows[k] for each tap, and the bias's += gradient.
void AddToSums(int64_t width, const float* gradient, const float* const* rows, int64_t count,
               ConvMemory& memory) {
  const hn::CappedTag<float, 16> d;
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
    float* s0 = memory.sums[k];
    float* s1 = memory.sums[k + 1];
    float* s2 = memory.sums[k + 2];
    float* s3 = memory.sums[k + 3];
    ForEach(d, width, Out(s0, s1, s2, s3),
            In(gradient, rows[k], rows[k + 1], rows[k + 2], rows[k + 3], s0, s1, s2, s3),
            [](auto g, auto x0, auto x1, auto x2, auto x3, auto a0, auto a1, auto a2, auto a3, auto& o0,
               auto& o1, auto& o2, auto& o3) HWY_ATTR {
              o0 = hn::MulAdd(g, x0, a0);
              o1 = hn::MulAdd(g, x1, a1);
              o2 = hn::MulAdd(g, x2, a2);
              o3 = hn::MulAdd(g, x3, a3);
            });
  }
  for (; k < count; ++k)
    ForEach(d, width, Out(memory.sums[k]), In(gradient, rows[k], memory.sums[k]),
            [](auto g, auto x, auto a, auto& out) HWY_ATTR { out = hn::MulAdd(g, x, a); });
  row_math::add(memory.sums[count], gradient, memory.sums[count], width);
}

// The gradients of an item. sums[k * channels + c]: over the segment, for tap k, then for the bias.
void ConvBackward(const CausalConvBackward& op, const ConvItem& item, ConvMemory& memory, float* sums) {
  const int64_t K = op.weight.cols, width = item.width, c = item.channel;
  const int64_t begin = op.segments.begin(item.segment), length = op.segments.length(item.segment);
  const float* taps[kWidestKernel];
  const float* rows[kWidestKernel];
  std::fill_n(memory.zero, width, 0.0f);
  for (int64_t k = 0; k <= K; ++k) {
    std::fill_n(memory.sums[k], width, 0.0f);
    std::fill_n(sums + k * item.channels + c, width, 0.0f);
  }

  const int64_t ahead = ceil_div(kAheadFloats, width);
  // The state's rows and the segment's are one sequence: row i of it is read by output i with tap 0 and by
  // output i - (K - 1) with the last. From the end: when row i has its turn, so have the outputs from
  // i - (K - 1) on.
  for (int64_t i = length + K - 2; i >= 0; --i) {
    const int64_t t = i - (K - 1);
    if (t >= ahead) {
      const int64_t r = begin + t - ahead;
      if (t >= ahead + K - 1) row_math::expect_read(op.x.row<float>(r - (K - 1)) + c, width);
      row_math::expect_read(op.dy.row<float>(r) + c, width);
      if (op.dx) row_math::expect_write(op.dx.to.row<float>(r) + c, width);
    }
    if (t >= 0) {
      GatherTaps(op, item, t, taps, rows);
      float* gradient = memory.gradient[t % K];
      const float* dy = op.dy.row<float>(begin + t) + c;
      if (op.activation == Activation::silu) {
        AddAllTaps(width, op.bias.row<float>(0) + c, taps, rows, K, memory.before);
        SiluGradient(width, memory.before, dy, gradient);
      } else {
        std::copy_n(dy, width, gradient);
      }
      AddToSums(width, gradient, rows, K, memory);
      if (t % kSumRows == 0) {
        for (int64_t k = 0; k <= K; ++k) {
          row_math::put(memory.sums[k], true, sums + k * item.channels + c, width);
          std::fill_n(memory.sums[k], width, 0.0f);
        }
      }
    }
    float* to;
    const bool add = t >= 0 && op.dx.add;
    if (t >= 0) {
      if (!op.dx) continue;
      to = op.dx.to.row<float>(begin + t) + c;
    } else {
      if (!op.dstate_in) break;
      to = op.dstate_in.row<float>(item.segment) + i * item.channels + c;
    }
    int64_t count = 0;
    for (int64_t k = 0; k < K; ++k) {
      if (i - k < 0 || i - k >= length) continue;
      taps[count] = item.taps + k * item.channels + c;
      rows[count++] = memory.gradient[(i - k) % K];
    }
    const float* init = i >= length && op.dstate_out
                            ? op.dstate_out.row<float>(item.segment) + (i - length) * item.channels + c
                            : memory.zero;
    AddAllTaps(width, init, taps, rows, count, add ? memory.row : to);
    if (add) row_math::put(memory.row, true, to, width);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic {
namespace {

HWY_EXPORT(ConvForward);
HWY_EXPORT(ConvBackward);

// The weights [C, K] as K rows of C.
const float* rows_of_taps(Arena& scratch, const Tensor& weight) {
  const int64_t C = weight.rows, K = weight.cols;
  HARMONIC_ASSERT(K >= 1 && K <= kWidestKernel);
  float* taps = scratch.allocate_array<float>(C * K);
  for (int64_t c = 0; c < C; ++c) {
    for (int64_t k = 0; k < K; ++k) taps[k * C + c] = weight.row<float>(c)[k];
  }
  return taps;
}

template <typename Body>
void for_each_item(Context& context, const Segments& segments, const ChannelBlocks& blocks, int64_t workers,
                   const float* taps, const Body& body) {
  parallel_items(context.pool, segments.count * blocks.count, workers, [&](int64_t i, int64_t worker) {
    const int64_t block = i % blocks.count;
    body(ConvItem{i / blocks.count, blocks.begin(block), blocks.size(block), blocks.channels, taps}, worker);
  });
}

// The last K - 1 rows of each segment, or of its state when it has fewer.
void write_states(const CausalConv& op) {
  const int64_t C = op.x.cols, K = op.weight.cols;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t j = 0; j < K - 1; ++j) {
      const int64_t t = op.segments.length(b) - (K - 1) + j;
      const float* from =
          t >= 0 ? op.x.row<float>(op.segments.begin(b) + t) : op.state_in.row<float>(b) + (t + K - 1) * C;
      std::copy_n(from, C, op.state_out.row<float>(b) + j * C);
    }
  }
}

}  // namespace

namespace cpu {

void run(Context& context, const CausalConv& op) {
  const ArenaScope scope(context.scratch);
  const ChannelBlocks blocks(context.pool, op.segments.count, op.x.cols, round_up(op.x.cols, 64));
  const int64_t workers = workers_for(context.pool, op.segments.count * blocks.count, op.x.size());
  for_each_item(context, op.segments, blocks, workers, rows_of_taps(context.scratch, op.weight),
                [&](const ConvItem& item, int64_t) {
                  HWY_DYNAMIC_DISPATCH(ConvForward)
                  (op, item);
                });
  write_states(op);
}

void run(Context& context, const CausalConvBackward& op) {
  const ArenaScope scope(context.scratch);
  const int64_t C = op.x.cols, K = op.weight.cols, count = op.segments.count;
  const ChannelBlocks blocks(context.pool, count, C, kWidestConvBlock);
  const int64_t workers = workers_for(context.pool, count * blocks.count, op.x.size());
  const float* taps = rows_of_taps(context.scratch, op.weight);
  ConvMemory* memory = context.scratch.allocate_array<ConvMemory>(workers);
  float* sums = context.scratch.allocate_array<float>(count * (K + 1) * C);
  for_each_item(context, op.segments, blocks, workers, taps, [&](const ConvItem& item, int64_t worker) {
    HWY_DYNAMIC_DISPATCH(ConvBackward)(op, item, memory[worker], sums + item.segment * (K + 1) * C);
  });
  for (int64_t b = 0; b < count; ++b) {
    const float* segment = sums + b * (K + 1) * C;
    for (int64_t c = 0; op.dweight && c < C; ++c) {
      for (int64_t k = 0; k < K; ++k) op.dweight.row<float>(c)[k] += segment[k * C + c];
    }
    if (op.dbias) row_math::put(segment + K * C, true, op.dbias.row<float>(0), C);
  }
}

}  // namespace cpu
}  // namespace harmonic
#endif  // HWY_ONCE
