#include "harmonic/ops/causal_conv.h"
#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {
namespace {

struct Convolution {
  Rows x, weight, bias, state;
  SegmentRows segments;
  int64_t channels, width;

  // Row t of segment b, where rows before the first (t < 0) are in the state.
  __device__ float row_before_or_now(int64_t b, int64_t t, int64_t c) const {
    return t < 0 ? state[b][(width - 1 + t) * channels + c] : x[segments.begin(b) + t][c];
  }
  __device__ float at(int64_t b, int64_t t, int64_t c) const {
    float sum = bias[0][c];
    for (int64_t k = 0; k < width; ++k) sum += weight[c][k] * row_before_or_now(b, t - (width - 1) + k, c);
    return sum;
  }
};

template <typename Op>
Convolution convolution_of(const Op& op) {
  return {rows_of(op.x),       rows_of(op.weight), rows_of(op.bias), rows_of(op.state_in),
          staged(op.segments), op.x.cols,          op.weight.cols};
}

}  // namespace

void run(Context&, const CausalConv& op) {
  const Convolution conv = convolution_of(op);
  const Rows y = rows_of(op.y), after = rows_of(op.state_out);
  const int64_t rows = op.segments.rows(), channels = conv.channels, tail = conv.width - 1;
  const bool is_silu = op.activation == Activation::silu;
  for_each_element(rows, channels, [=] __device__(int64_t r, int64_t c) {
    const int64_t b = conv.segments.of(r);
    const float sum = conv.at(b, r - conv.segments.begin(b), c);
    y[r][c] = is_silu ? silu(sum) : sum;
  });
  for_each(conv.segments.count * tail * channels, [=] __device__(int64_t i) {
    const int64_t b = i / (tail * channels), k = i / channels % tail, c = i % channels;
    after[b][k * channels + c] = conv.row_before_or_now(b, conv.segments.length(b) - tail + k, c);
  });
}

void run(Context& context, const CausalConvBackward& op) {
  const Convolution conv = convolution_of(op);
  const SegmentRows segments = conv.segments;
  const GradientRows dx = rows_of(op.dx);
  const Rows dafter = rows_of(op.dstate_out), dbefore = rows_of(op.dstate_in);
  const Rows dweight = rows_of(op.dweight), dbias = rows_of(op.dbias);
  const int64_t rows = op.segments.rows(), channels = conv.channels, width = conv.width, tail = width - 1;
  // The gradient before the activation.
  Rows d = rows_of(op.dy);
  if (op.activation == Activation::silu) {
    const Rows dy = d;
    d = rows_of(scratch_tensor(context, rows, channels));
    for_each_element(rows, channels, [=] __device__(int64_t r, int64_t c) {
      const int64_t b = segments.of(r);
      d[r][c] = dy[r][c] * silu_slope(conv.at(b, r - segments.begin(b), c));
    });
  }
  // Of row t of segment b, from -tail on: what the rows read of it that come up to `tail` later, and the
  // state.
  const auto gradient_of = [=] __device__(int64_t b, int64_t t, int64_t c) {
    const int64_t length = segments.length(b);
    float sum = 0;
    if (dafter && t >= length - tail) sum = dafter[b][(t - length + tail) * channels + c];
    for (int64_t later = t > 0 ? t : 0; later <= t + tail && later < length; ++later)
      sum += d[segments.begin(b) + later][c] * conv.weight[c][t + tail - later];
    return sum;
  };
  if (dx)
    for_each_element(rows, channels, [=] __device__(int64_t r, int64_t c) {
      const int64_t b = segments.of(r);
      dx.put(r, c, gradient_of(b, r - segments.begin(b), c));
    });
  if (dbefore)
    for_each(segments.count * tail * channels, [=] __device__(int64_t i) {
      const int64_t b = i / (tail * channels), k = i / channels % tail, c = i % channels;
      dbefore[b][k * channels + c] = gradient_of(b, k - tail, c);
    });
  // Taps, then the bias.
  sum_columns(
      context, rows, (width + 1) * channels,
      [=] __device__(int64_t r, int64_t i) {
        const int64_t k = i / channels, c = i % channels;
        if (k == width) return d[r][c];
        const int64_t b = segments.of(r);
        return d[r][c] * conv.row_before_or_now(b, r - segments.begin(b) - tail + k, c);
      },
      [=] __device__(int64_t i, float sum) {
        const int64_t k = i / channels, c = i % channels;
        if (k == width) {
          dbias[0][c] += sum;
        } else {
          dweight[c][k] += sum;
        }
      });
}

}  // namespace harmonic::cuda
