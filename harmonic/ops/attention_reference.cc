#include "harmonic/ops/attention.h"

#include <cmath>
#include <vector>

#include "harmonic/ops/reference.h"

namespace harmonic::reference {
namespace {

// The keys and values that a segment's queries read, by position.
template <typename Op>
struct Memory {
  const Op& op;
  int64_t b;

  int64_t width() const { return op.k.cols; }
  // Where the key at position p lies in the segment's row of caches; its value is width() further.
  int64_t cached(int64_t p) const { return p % (op.past.cols / (2 * width())) * 2 * width(); }
  bool own(int64_t p) const { return p >= op.positions[b]; }
  int64_t own_row(int64_t p) const { return op.segments.begin(b) + p - op.positions[b]; }
  double key(int64_t p, int64_t c) const {
    return own(p) ? op.k.template row<double>(own_row(p))[c] : op.past.template row<double>(b)[cached(p) + c];
  }
  double value(int64_t p, int64_t c) const {
    return own(p) ? op.v.template row<double>(own_row(p))[c]
                  : op.past.template row<double>(b)[cached(p) + width() + c];
  }
  int64_t first_key(int64_t p) const {
    return op.shape.window > 0 ? std::max<int64_t>(0, p - op.shape.window + 1) : 0;
  }
};

// The weights of query head h at position p, over the keys from first_key(p) on, and the log of their sum.
template <typename Op>
std::vector<double> weights_of(const Memory<Op>& memory, int64_t p, int64_t h, double& lse) {
  const Op& op = memory.op;
  const int64_t D = op.q.cols / op.shape.heads, g = h / (op.shape.heads / op.shape.kv_heads);
  const double* q = op.q.template row<double>(memory.own_row(p)) + h * D;
  std::vector<double> weights;
  double largest = -INFINITY, sum = 0;
  for (int64_t j = memory.first_key(p); j <= p; ++j) {
    double score = 0;
    for (int64_t i = 0; i < D; ++i) score += q[i] * memory.key(j, g * D + i);
    weights.push_back(score / std::sqrt(static_cast<double>(D)));
    largest = std::max(largest, weights.back());
  }
  for (const double score : weights) sum += std::exp(score - largest);
  lse = largest + std::log(sum);
  for (double& score : weights) score = std::exp(score - lse);
  return weights;
}

}  // namespace

void run(Context&, const Attention& op) {
  const int64_t D = op.q.cols / op.shape.heads;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const Memory<Attention> memory{op, b};
    for (int64_t t = 0; t < op.segments.length(b); ++t) {
      const int64_t p = op.positions[b] + t, r = op.segments.begin(b) + t;
      for (int64_t h = 0; h < op.shape.heads; ++h) {
        const int64_t g = h / (op.shape.heads / op.shape.kv_heads);
        double lse = 0;
        const std::vector<double> weights = weights_of(memory, p, h, lse);
        if (op.lse) op.lse.row<double>(r)[h] = lse;
        for (int64_t i = 0; i < D; ++i) {
          double sum = 0;
          for (size_t j = 0; j < weights.size(); ++j)
            sum += weights[j] * memory.value(memory.first_key(p) + static_cast<int64_t>(j), g * D + i);
          op.y.row<double>(r)[h * D + i] = sum;
        }
      }
    }
  }
}

void run(Context&, const AttentionBackward& op) {
  const int64_t D = op.q.cols / op.shape.heads;
  for (int64_t r = 0; r < op.q.rows; ++r) {
    for (int64_t c = 0; c < op.dq.cols; ++c) op.dq.row<double>(r)[c] = 0;
    for (int64_t c = 0; c < op.dk.cols; ++c) op.dk.row<double>(r)[c] = op.dv.row<double>(r)[c] = 0;
  }
  for (int64_t b = 0; b < op.dpast.rows; ++b)
    for (int64_t c = 0; c < op.dpast.cols; ++c) op.dpast.row<double>(b)[c] = 0;
  for (int64_t b = 0; b < op.segments.count; ++b) {
    const Memory<AttentionBackward> memory{op, b};
    const auto add = [&](bool is_key, int64_t j, int64_t c, double gradient) {
      if (memory.own(j)) {
        (is_key ? op.dk : op.dv).row<double>(memory.own_row(j))[c] += gradient;
      } else if (op.dpast) {
        op.dpast.row<double>(b)[memory.cached(j) + (is_key ? 0 : memory.width()) + c] += gradient;
      }
    };
    for (int64_t t = 0; t < op.segments.length(b); ++t) {
      const int64_t p = op.positions[b] + t, r = op.segments.begin(b) + t;
      for (int64_t h = 0; h < op.shape.heads; ++h) {
        const int64_t g = h / (op.shape.heads / op.shape.kv_heads);
        const double* dy = op.dy.row<double>(r) + h * D;
        double lse = 0, shared = 0;
        const std::vector<double> weights = weights_of(memory, p, h, lse);
        for (int64_t i = 0; i < D; ++i) shared += dy[i] * op.y.row<double>(r)[h * D + i];
        for (size_t n = 0; n < weights.size(); ++n) {
          const int64_t j = memory.first_key(p) + static_cast<int64_t>(n);
          double dweight = 0;
          for (int64_t i = 0; i < D; ++i) {
            dweight += dy[i] * memory.value(j, g * D + i);
            add(false, j, g * D + i, weights[n] * dy[i]);
          }
          const double dscore = weights[n] * (dweight - shared) / std::sqrt(static_cast<double>(D));
          for (int64_t i = 0; i < D; ++i) {
            op.dq.row<double>(r)[h * D + i] += dscore * memory.key(j, g * D + i);
            add(true, j, g * D + i, dscore * op.q.row<double>(r)[h * D + i]);
          }
        }
      }
    }
  }
}

void run(Context&, const KeepKeys& op) {
  const int64_t width = op.k.cols, capacity = op.past.cols / (2 * width);
  for (int64_t b = 0; b < op.segments.count; ++b) {
    double* after = op.after.row<double>(b);
    for (int64_t c = 0; c < op.past.cols; ++c) after[c] = op.past.row<double>(b)[c];
    for (int64_t t = 0; t < op.segments.length(b); ++t)
      for (int64_t c = 0; c < width; ++c) {
        double* row = after + (op.positions[b] + t) % capacity * 2 * width;
        row[c] = op.k.row<double>(op.segments.begin(b) + t)[c];
        row[width + c] = op.v.row<double>(op.segments.begin(b) + t)[c];
      }
  }
}

void run(Context&, const KeepKeysBackward& op) {
  const int64_t width = op.dk.cols, capacity = op.dafter.cols / (2 * width);
  for (int64_t b = 0; b < op.segments.count; ++b) {
    std::vector<int64_t> writer(static_cast<size_t>(capacity), -1);  // the row whose token is kept there
    for (int64_t t = 0; t < op.segments.length(b); ++t)
      writer[static_cast<size_t>((op.positions[b] + t) % capacity)] = op.segments.begin(b) + t;
    for (int64_t i = 0; i < op.dafter.cols; ++i) {
      const int64_t r = writer[static_cast<size_t>(i / (2 * width))], c = i % (2 * width);
      const double gradient = op.dafter.row<double>(b)[i];
      if (r < 0) {
        op.dpast.row<double>(b)[i] += gradient;
      } else {
        (c < width ? op.dk : op.dv).row<double>(r)[c % width] += gradient;
      }
    }
  }
}

}  // namespace harmonic::reference
