#include "harmonic/ops/decay_scan.h"

#include "harmonic/base/checked.h"
#include "harmonic/ops/reference.h"

namespace harmonic {

int64_t scan_tiles(const Segments& segments) {
  int64_t tiles = 0;
  for (int64_t b = 0; b < segments.count; ++b) tiles += ceil_div(segments.length(b), kScanTile);
  return tiles;
}

namespace reference {

void run(Context&, const DecayScan& op) {
  int64_t tile = 0;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    for (int64_t c = 0; c < op.u.cols; ++c) {
      double s = op.state_in.row<double>(b)[c];
      for (int64_t t = 0; t < op.segments.length(b); ++t) {
        const int64_t r = op.segments.begin(b) + t;
        if (op.borders && t % kScanTile == 0) op.borders.row<double>(tile + t / kScanTile)[c] = s;
        const double u = op.u.row<double>(r)[c], g = op.g.row<double>(r)[c];
        const double a = sigmoid(-g);
        s = a * s + std::sqrt((1 + a) * sigmoid(g)) * u;
        op.y.row<double>(r)[c] = (s + op.skip.as<double>()[c] * u) * silu(op.z.row<double>(r)[c]);
      }
      op.state_out.row<double>(b)[c] = s;
    }
    tile += ceil_div(op.segments.length(b), kScanTile);
  }
}

void run(Context&, const DecayScanBackward& op) {
  int64_t tile = 0;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const int64_t length = op.segments.length(b), begin = op.segments.begin(b);
    for (int64_t c = 0; c < op.u.cols; ++c) {
      // before[t] is the state that row t finds.
      std::vector<double> before(static_cast<size_t>(length) + 1);
      if (length > 0) before[0] = op.borders.row<double>(tile)[c];
      for (int64_t t = 0; t < length; ++t) {
        const double g = op.g.row<double>(begin + t)[c], a = sigmoid(-g);
        before[static_cast<size_t>(t) + 1] = a * before[static_cast<size_t>(t)] +
                                             std::sqrt((1 + a) * sigmoid(g)) * op.u.row<double>(begin + t)[c];
      }
      const double skip = op.skip.as<double>()[c];
      double ds = number_or_zero(op.dstate_out, b, c);
      for (int64_t t = length; t-- > 0;) {
        const int64_t r = begin + t;
        const double u = op.u.row<double>(r)[c], z = op.z.row<double>(r)[c], g = op.g.row<double>(r)[c];
        const double dy = op.dy.row<double>(r)[c], s = before[static_cast<size_t>(t) + 1];
        const double a = sigmoid(-g), gain = std::sqrt((1 + a) * sigmoid(g));
        op.dz.row<double>(r)[c] = dy * (s + skip * u) * silu_slope(z);
        const double d = dy * silu(z);
        op.dskip.as<double>()[c] += d * u;
        ds += d;
        op.du.row<double>(r)[c] = d * skip + ds * gain;
        op.dg.row<double>(r)[c] = ds * (before[static_cast<size_t>(t)] * (-a * sigmoid(g)) +
                                        u * a * a * std::sqrt(sigmoid(g) / (1 + a)));
        ds *= a;
      }
      if (op.dstate_in) op.dstate_in.row<double>(b)[c] = ds;
    }
    tile += ceil_div(length, kScanTile);
  }
}

}  // namespace reference
}  // namespace harmonic
