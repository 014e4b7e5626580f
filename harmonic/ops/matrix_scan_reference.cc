#include "harmonic/ops/matrix_scan.h"

#include <vector>

#include "harmonic/base/checked.h"
#include "harmonic/ops/reference.h"

namespace harmonic {

int64_t matrix_tiles(const Segments& blocks) {
  int64_t tiles = 0;
  for (int64_t b = 0; b < blocks.count; ++b)
    tiles += std::max<int64_t>(1, ceil_div(blocks.length(b), kMatrixTile));
  return tiles;
}

namespace reference {
namespace {

using Matrix = std::vector<double>;  // [F, D + 1]

// One head of keys and values of one segment.
template <typename Op>
struct Head {
  const Op& op;
  int64_t b, head;

  int64_t F() const { return op.shape.features; }
  int64_t D() const { return op.shape.values; }
  int64_t group() const { return op.shape.heads / op.shape.kv_heads; }
  size_t size() const { return static_cast<size_t>(F() * (D() + 1)); }
  int64_t offset() const { return head * F() * (D() + 1); }  // within a state

  const double* key(int64_t j) const {
    return op.k.template row<double>(op.blocks.begin(b) + j) + head * F();
  }
  const double* value_row(int64_t j) const {
    return op.v.template row<double>(op.blocks.begin(b) + j) + head * D();
  }
  double value(int64_t j, int64_t e) const { return e == D() ? 1 : value_row(j)[e]; }
  double gate(int64_t j) const { return op.g.template row<double>(op.blocks.begin(b) + j)[head]; }
  // How many of the segment's blocks token t has behind it.
  int64_t read(int64_t t) const { return (op.phases[b] + t + 1) / op.shape.stride; }

  Matrix load(const Tensor& states, int64_t row) const {
    Matrix m(size());
    for (size_t i = 0; i < m.size(); ++i)
      m[i] = number_or_zero(states, row, offset() + static_cast<int64_t>(i));
    return m;
  }
  void store(const Matrix& m, const Tensor& states, int64_t row) const {
    for (size_t i = 0; i < m.size(); ++i) states.row<double>(row)[offset() + static_cast<int64_t>(i)] = m[i];
  }
  double& at(Matrix& m, int64_t f, int64_t e) const { return m[static_cast<size_t>(f * (D() + 1) + e)]; }

  // The state after block j.
  Matrix after(Matrix m, int64_t j) const {
    for (int64_t f = 0; f < F(); ++f)
      for (int64_t e = 0; e <= D(); ++e)
        at(m, f, e) = sigmoid(-gate(j)) * at(m, f, e) + key(j)[f] * value(j, e);
    return m;
  }
};

// Calls body(head, first tile of the segment) for every segment and head of keys.
template <typename Op, typename Body>
void for_each_head(const Op& op, const Body& body) {
  int64_t tile = 0;
  for (int64_t b = 0; b < op.blocks.count; ++b) {
    for (int64_t h = 0; h < op.shape.kv_heads; ++h) body(Head<Op>{op, b, h}, tile);
    tile += std::max<int64_t>(1, ceil_div(op.blocks.length(b), kMatrixTile));
  }
}

}  // namespace

void run(Context&, const MatrixScan& op) {
  for_each_head(op, [&](const Head<MatrixScan>& head, int64_t tile) {
    const int64_t F = head.F(), E = head.D() + 1, blocks = op.blocks.length(head.b);
    Matrix s = head.load(op.state_in, head.b);
    if (op.borders) head.store(s, op.borders, tile);
    int64_t done = 0;
    for (int64_t t = 0; t < op.segments.length(head.b); ++t) {
      for (; done < head.read(t); ++done) {
        if (op.borders && done % kMatrixTile == 0) head.store(s, op.borders, tile + done / kMatrixTile);
        s = head.after(std::move(s), done);
      }
      const int64_t r = op.segments.begin(head.b) + t;
      for (int64_t h = head.head * head.group(); h < (head.head + 1) * head.group(); ++h)
        for (int64_t e = 0; e < E; ++e) {
          double sum = 0;
          for (int64_t f = 0; f < F; ++f) sum += op.q.row<double>(r)[h * F + f] * head.at(s, f, e);
          op.y.row<double>(r)[h * E + e] = std::exp(op.log_gain.as<double>()[h]) * sum;
        }
    }
    HARMONIC_ASSERT(done == blocks);
    head.store(s, op.state_out, head.b);
  });
}

void run(Context&, const MatrixScanBackward& op) {
  for_each_head(op, [&](const Head<MatrixScanBackward>& head, int64_t tile) {
    const int64_t F = head.F(), D = head.D(), E = D + 1, blocks = op.blocks.length(head.b);
    std::vector<Matrix> states = {head.load(op.borders, tile)};  // before each block, and after the last
    for (int64_t j = 0; j < blocks; ++j) states.push_back(head.after(states.back(), j));
    Matrix ds = head.load(op.dstate_out, head.b);
    int64_t left = blocks;  // blocks whose gradients are still to come
    const auto go_back_to = [&](int64_t target) {
      while (left > target) {
        const int64_t j = --left, row = op.blocks.begin(head.b) + j;
        const double a = sigmoid(-head.gate(j));
        double da = 0;
        Matrix& before = states[static_cast<size_t>(j)];
        for (int64_t e = 0; e < D; ++e) op.dv.row<double>(row)[head.head * D + e] = 0;
        for (int64_t f = 0; f < F; ++f) {
          double dk = 0;
          for (int64_t e = 0; e < E; ++e) {
            double& d = head.at(ds, f, e);
            dk += d * head.value(j, e);
            if (e < D) op.dv.row<double>(row)[head.head * D + e] += d * head.key(j)[f];
            da += d * head.at(before, f, e);
            d *= a;
          }
          op.dk.row<double>(row)[head.head * F + f] = dk;
        }
        op.dg.row<double>(row)[head.head] = -da * a * sigmoid(head.gate(j));
      }
    };
    for (int64_t t = op.segments.length(head.b); t-- > 0;) {
      go_back_to(head.read(t));
      const int64_t r = op.segments.begin(head.b) + t;
      Matrix& s = states[static_cast<size_t>(head.read(t))];
      for (int64_t h = head.head * head.group(); h < (head.head + 1) * head.group(); ++h) {
        const double gain = std::exp(op.log_gain.as<double>()[h]);
        const double* q = op.q.row<double>(r) + h * F;
        const double* dy = op.dy.row<double>(r) + h * E;
        for (int64_t f = 0; f < F; ++f) {
          double dq = 0;
          for (int64_t e = 0; e < E; ++e) {
            dq += gain * dy[e] * head.at(s, f, e);
            head.at(ds, f, e) += gain * dy[e] * q[f];
          }
          op.dq.row<double>(r)[h * F + f] = dq;
        }
        for (int64_t e = 0; e < E; ++e)
          op.dlog_gain.as<double>()[h] += dy[e] * op.y.row<double>(r)[h * E + e];
      }
    }
    go_back_to(0);
    if (op.dstate_in) head.store(ds, op.dstate_in, head.b);
  });
}

}  // namespace reference
}  // namespace harmonic
