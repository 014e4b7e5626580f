#include "harmonic/ops/optimizer.h"

#include <algorithm>

#include "harmonic/ops/reference.h"

namespace harmonic::reference {
namespace {

using Matrix = std::vector<std::vector<double>>;

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.size(), std::vector<double>(b[0].size(), 0.0));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < b.size(); ++k)
      for (size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}

Matrix transposed(const Matrix& a) {
  Matrix t(a[0].size(), std::vector<double>(a.size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) t[j][i] = a[i][j];
  return t;
}

// Five times X = a X + (b A + c A A) X with A = X X^T, from X = M / ||M||. A matrix of zeros stays one.
Matrix newton_schulz(Matrix x) {
  double squares = 0;
  for (const auto& row : x)
    for (double value : row) squares += value * value;
  if (squares == 0) return x;
  for (auto& row : x)
    for (double& value : row) value /= std::sqrt(squares);
  for (int step = 0; step < 5; ++step) {
    const Matrix gram = product(x, transposed(x)), square = product(gram, gram);
    Matrix polynomial = gram;
    for (size_t i = 0; i < gram.size(); ++i)
      for (size_t j = 0; j < gram.size(); ++j)
        polynomial[i][j] = -4.7750 * gram[i][j] + 2.0315 * square[i][j];
    const Matrix change = product(polynomial, x);
    for (size_t i = 0; i < x.size(); ++i)
      for (size_t j = 0; j < x[0].size(); ++j) x[i][j] = 3.4445 * x[i][j] + change[i][j];
  }
  return x;
}

}  // namespace

void run(Context&, const SumsOfSquares& op) {
  for (int64_t i = 0; i < op.count; ++i) {
    const Tensor& x = op.tensors[i];
    op.results[i] = 0;
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c) op.results[i] += x.row<double>(r)[c] * x.row<double>(r)[c];
  }
}

void run(Context&, const AdamW& op) {
  const double correction1 = 1 - std::pow(op.beta1, static_cast<double>(op.step));
  const double correction2 = 1 - std::pow(op.beta2, static_cast<double>(op.step));
  for (int64_t r = 0; r < op.value.rows; ++r) {
    for (int64_t c = 0; c < op.value.cols; ++c) {
      double &value = op.value.row<double>(r)[c], &grad = op.grad.row<double>(r)[c];
      double &m = op.m.row<double>(r)[c], &v = op.v.row<double>(r)[c];
      const double g = op.gradient_scale * grad;
      m = op.beta1 * m + (1 - op.beta1) * g;
      v = op.beta2 * v + (1 - op.beta2) * g * g;
      value = value * (1 - op.lr * op.weight_decay) -
              op.lr * (m / correction1) / (std::sqrt(v / correction2) + op.epsilon);
      grad = 0;
    }
  }
}

namespace {

void update(const Muon& op, const MuonMatrix& matrix) {
  const auto rows = static_cast<size_t>(matrix.value.rows), cols = static_cast<size_t>(matrix.value.cols);
  Matrix direction(rows, std::vector<double>(cols));
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      double& grad = matrix.grad.row<double>(static_cast<int64_t>(r))[c];
      double& m = matrix.m.row<double>(static_cast<int64_t>(r))[c];
      const double g = op.gradient_scale * grad;
      m = op.momentum * m + g;
      direction[r][c] = g + op.momentum * m;
      grad = 0;
    }
  }
  const Matrix o = rows > cols ? transposed(newton_schulz(transposed(direction))) : newton_schulz(direction);
  const double size = op.lr * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      double& value = matrix.value.row<double>(static_cast<int64_t>(r))[c];
      value = value * (1 - op.lr * op.weight_decay) - size * o[r][c];
    }
  }
}

}  // namespace

void run(Context&, const Muon& op) {
  for (int64_t i = 0; i < op.count; ++i) update(op, op.matrices[i]);
}

}  // namespace harmonic::reference
