#include "harmonic/ops/selective_scan.h"

#include <array>

#include "harmonic/base/checked.h"
#include "harmonic/ops/reference.h"

namespace harmonic::reference {
namespace {

using Numbers = std::array<double, kSelectiveState>;

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

Numbers read_numbers(const Tensor& states, int64_t row, int64_t channels, int64_t c) {
  Numbers s;
  for (int64_t i = 0; i < kSelectiveState; ++i)
    s[static_cast<size_t>(i)] = number_or_zero(states, row, i * channels + c);
  return s;
}
void write_numbers(const Numbers& s, const Tensor& states, int64_t row, int64_t channels, int64_t c) {
  for (int64_t i = 0; i < kSelectiveState; ++i)
    states.row<double>(row)[i * channels + c] = s[static_cast<size_t>(i)];
}

// The rate at which number i of channel c decays.
template <typename Op>
double rate(const Op& op, int64_t c, size_t i) {
  return op.a_log ? std::exp(op.a_log.template row<double>(c)[i]) : 1;
}

// The state after row r.
template <typename Op>
Numbers update(const Op& op, const Numbers& before, int64_t r, int64_t c) {
  const double delta = softplus(op.dt.template row<double>(r)[c]);
  Numbers s;
  for (size_t i = 0; i < s.size(); ++i)
    s[i] = std::exp(-delta * rate(op, c, i)) * before[i] +
           delta * op.u.template row<double>(r)[c] * op.key.template row<double>(r)[i];
  return s;
}

}  // namespace

void run(Context&, const SelectiveScan& op) {
  const int64_t channels = op.u.cols;
  int64_t tile = 0;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < channels; ++c) {
      Numbers s = read_numbers(op.state_in, b, channels, c);
      for (int64_t t = 0; t < op.segments.length(b); ++t) {
        const int64_t r = op.segments.begin(b) + t;
        if (op.borders && t % kScanTile == 0) write_numbers(s, op.borders, tile + t / kScanTile, channels, c);
        s = update(op, s, r, c);
        double read = op.skip.as<double>()[c] * op.u.row<double>(r)[c];
        for (size_t i = 0; i < s.size(); ++i) read += s[i] * op.query.row<double>(r)[i];
        op.y.row<double>(r)[c] = read * silu(op.z.row<double>(r)[c]);
      }
      write_numbers(s, op.state_out, b, channels, c);
    }
    tile += ceil_div(op.segments.length(b), kScanTile);
  }
}

void run(Context&, const SelectiveScanBackward& op) {
  const int64_t channels = op.u.cols;
  for (int64_t r = 0; r < op.key.rows; ++r)
    for (int64_t i = 0; i < kSelectiveState; ++i) op.dkey.row<double>(r)[i] = op.dquery.row<double>(r)[i] = 0;
  int64_t tile = 0;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const int64_t length = op.segments.length(b), begin = op.segments.begin(b);
    for (int64_t c = 0; c < channels; ++c) {
      std::vector<Numbers> before(static_cast<size_t>(length) + 1);
      if (length > 0) before[0] = read_numbers(op.borders, tile, channels, c);
      for (int64_t t = 0; t < length; ++t)
        before[static_cast<size_t>(t) + 1] = update(op, before[static_cast<size_t>(t)], begin + t, c);
      const double skip = op.skip.as<double>()[c];
      Numbers ds = read_numbers(op.dstate_out, b, channels, c);
      for (int64_t t = length; t-- > 0;) {
        const int64_t r = begin + t;
        const Numbers &s = before[static_cast<size_t>(t) + 1], &last = before[static_cast<size_t>(t)];
        const double *key = op.key.row<double>(r), *query = op.query.row<double>(r);
        const double u = op.u.row<double>(r)[c], z = op.z.row<double>(r)[c], dy = op.dy.row<double>(r)[c];
        const double dt = op.dt.row<double>(r)[c], delta = softplus(dt);
        double read = skip * u;
        for (size_t i = 0; i < s.size(); ++i) read += s[i] * query[i];
        op.dz.row<double>(r)[c] = dy * read * silu_slope(z);
        const double d = dy * silu(z);
        op.dskip.as<double>()[c] += d * u;
        double du = d * skip, ddelta = 0;
        for (size_t i = 0; i < s.size(); ++i) {
          const double decay = std::exp(-delta * rate(op, c, i));
          op.dquery.row<double>(r)[i] += d * s[i];
          ds[i] += d * query[i];
          op.dkey.row<double>(r)[i] += ds[i] * delta * u;
          du += ds[i] * delta * key[i];
          ddelta += ds[i] * (u * key[i] - rate(op, c, i) * decay * last[i]);
          if (op.da_log) op.da_log.row<double>(c)[i] -= ds[i] * delta * rate(op, c, i) * decay * last[i];
          ds[i] *= decay;
        }
        op.du.row<double>(r)[c] = du;
        op.ddt.row<double>(r)[c] = ddelta * sigmoid(dt);
      }
      if (op.dstate_in) write_numbers(ds, op.dstate_in, b, channels, c);
    }
    tile += ceil_div(length, kScanTile);
  }
}

}  // namespace harmonic::reference
