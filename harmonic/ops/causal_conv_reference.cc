#include "harmonic/ops/causal_conv.h"
#include "harmonic/ops/reference.h"

namespace harmonic::reference {
namespace {

// Row t of segment b, where rows before the first (t < 0) are in the state.
template <typename Op>
double row_before_or_now(const Op& op, int64_t b, int64_t t, int64_t c) {
  const int64_t tail = op.weight.cols - 1, channels = op.x.cols;
  return t < 0 ? op.state_in.template row<double>(b)[(tail + t) * channels + c]
               : op.x.template row<double>(op.segments.begin(b) + t)[c];
}

template <typename Op>
double convolve(const Op& op, int64_t b, int64_t t, int64_t c) {
  const int64_t width = op.weight.cols;
  double sum = op.bias.template as<double>()[c];
  for (int64_t k = 0; k < width; ++k)
    sum += op.weight.template row<double>(c)[k] * row_before_or_now(op, b, t - (width - 1) + k, c);
  return sum;
}

}  // namespace

void run(Context&, const CausalConv& op) {
  const int64_t tail = op.weight.cols - 1, channels = op.x.cols;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const int64_t length = op.segments.length(b);
    for (int64_t t = 0; t < length; ++t) {
      for (int64_t c = 0; c < channels; ++c) {
        const double sum = convolve(op, b, t, c);
        op.y.row<double>(op.segments.begin(b) + t)[c] = op.activation == Activation::silu ? silu(sum) : sum;
      }
    }
    for (int64_t i = 0; i < tail; ++i)
      for (int64_t c = 0; c < channels; ++c)
        op.state_out.row<double>(b)[i * channels + c] = row_before_or_now(op, b, length - tail + i, c);
  }
}

void run(Context&, const CausalConvBackward& op) {
  const int64_t width = op.weight.cols, tail = width - 1, channels = op.x.cols;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const int64_t length = op.segments.length(b);
    for (int64_t c = 0; c < channels; ++c) {
      // Gradients of rows -tail .. length - 1.
      std::vector<double> dx(static_cast<size_t>(tail + length), 0.0);
      for (int64_t i = 0; i < tail; ++i)
        dx[static_cast<size_t>(length + i)] += number_or_zero(op.dstate_out, b, i * channels + c);
      for (int64_t t = 0; t < length; ++t) {
        double d = op.dy.row<double>(op.segments.begin(b) + t)[c];
        if (op.activation == Activation::silu) d *= silu_slope(convolve(op, b, t, c));
        op.dbias.as<double>()[c] += d;
        for (int64_t k = 0; k < width; ++k) {
          op.dweight.row<double>(c)[k] += d * row_before_or_now(op, b, t - tail + k, c);
          dx[static_cast<size_t>(t + k)] += d * op.weight.row<double>(c)[k];
        }
      }
      for (int64_t i = 0; op.dstate_in && i < tail; ++i)
        op.dstate_in.row<double>(b)[i * channels + c] = dx[static_cast<size_t>(i)];
      for (int64_t t = 0; t < length; ++t)
        put(op.dx, op.segments.begin(b) + t, c, dx[static_cast<size_t>(tail + t)]);
    }
  }
}

}  // namespace harmonic::reference
