#include "harmonic/ops/op_cost.h"

#include <algorithm>

namespace harmonic {
namespace {

double real(int64_t count) { return static_cast<double>(count); }
double product(int64_t rows, int64_t inputs, int64_t outputs) {
  return 2 * real(rows) * real(inputs) * real(outputs);
}

double bytes_of(const Tensor& tensor) { return tensor ? real(tensor.size() * size_of(tensor.dtype)) : 0; }
// Written, and read before where it is added to.
double bytes_of(const Gradient& gradient) { return bytes_of(gradient.to) * (gradient.add ? 2 : 1); }
template <typename... Terms>
double bytes(const Terms&... terms) {
  return (bytes_of(terms) + ...);
}
// Of a parameter's gradient, which is added to.
Gradient summed(const Tensor& gradient) { return {gradient, true}; }

// Scores that causal attention needs: for every row, the keys that it reads.
double scores(const Segments& segments, const int64_t* positions, const AttentionShape& shape) {
  double keys = 0;
  for (int64_t b = 0; b < segments.count; ++b) {
    const double first = real(positions[b]) + 1, rows = real(segments.length(b));
    const double window = shape.window > 0 ? real(shape.window) : first + rows;
    const double growing = std::clamp(window - first, 0.0, rows);  // rows that read all keys before them
    keys += growing * first + growing * (growing - 1) / 2 + (rows - growing) * window;
  }
  return keys * real(shape.heads);
}

// The recurrence's updates, of each of a channel's numbers: S = a S + x key and y += S query forward; the
// same again and the gradients of S, query, key, x and a backward.
constexpr double kSelectiveForward = 5, kSelectiveBackward = 16;

double selective_operations(const Tensor& u, double each) {
  return real(u.size()) * real(kSelectiveState) * each;
}

// The matrix cell's: S = a S + k v^T forward; the same again and the gradients of S, k and v backward; and
// what a query reads of it, of which a gradient is twice as much.
constexpr double kMatrixForward = 3, kMatrixBackward = 9;

double matrix_numbers(const Tensor& k, const MatrixShape& shape) {
  return real(k.rows) * real(shape.state());
}
double matrix_reads(const Tensor& q, const MatrixShape& shape) {
  return 2 * real(q.size()) * real(shape.values + 1);
}

}  // namespace

std::string_view name_of(OpWay way) {
  switch (way) {
    case OpWay::forward:
      return "forward";
    case OpWay::backward:
      return "backward";
    case OpWay::both:
      return "both";
    case OpWay::update:
      return "update";
  }
  return "?";
}

OpCost cost_of(const Embedding& op) {
  return {"embedding", OpWay::forward, 0, op.y.cols, 0, 2 * bytes(op.y)};
}
OpCost cost_of(const EmbeddingBackward& op) {
  return {"embedding", OpWay::backward, 0, op.dy.cols, 0, 3 * bytes(op.dy)};
}

OpCost cost_of(const Linear& op) {
  const int64_t rows = op.x.rows, inputs = op.x.cols, outputs = op.y.cols;
  return {"linear",
          OpWay::forward,
          inputs,
          outputs,
          product(rows, inputs, outputs),
          bytes(op.x, op.packed ? op.packed : op.weight, op.base, op.y)};
}
OpCost cost_of(const LinearBackward& op) {
  const int64_t rows = op.dy.rows, inputs = op.x.cols, outputs = op.dy.cols;
  return {"linear",
          OpWay::backward,
          inputs,
          outputs,
          product(rows, inputs, outputs) * ((op.dx ? 1 : 0) + (op.dweight ? 1 : 0)),
          bytes(op.x, op.dy, op.weight, op.dx, summed(op.dweight))};
}
OpCost cost_of(const ChooseTokens& op) {
  return {"choose_tokens", OpWay::forward, 0, op.logits.cols, 0, bytes(op.logits)};
}
OpCost cost_of(const PackWeight& op) {
  return {"pack_weight", OpWay::forward, op.weight.cols, op.weight.rows, 0, bytes(op.weight, op.packed)};
}

OpCost cost_of(const RmsNorm& op) { return {"rms_norm", OpWay::forward, 0, op.x.cols, 0, bytes(op.x, op.y)}; }
OpCost cost_of(const RmsNormBackward& op) {
  return {"rms_norm", OpWay::backward, 0, op.x.cols, 0, bytes(op.x, op.dy, op.dx)};
}

OpCost cost_of(const CausalConv& op) {
  return {"causal_conv", OpWay::forward, 0, op.x.cols, 0, bytes(op.x, op.y)};
}
OpCost cost_of(const CausalConvBackward& op) {
  return {"causal_conv", OpWay::backward, 0, op.x.cols, 0, bytes(op.x, op.dy, op.dx)};
}

OpCost cost_of(const DecayScan& op) {
  return {"decay_scan", OpWay::forward, 0, op.u.cols, 0, bytes(op.u, op.z, op.g, op.y, op.borders)};
}
OpCost cost_of(const DecayScanBackward& op) {
  return {"decay_scan",
          OpWay::backward,
          0,
          op.u.cols,
          0,
          bytes(op.u, op.z, op.g, op.borders, op.dy, op.du, op.dz, op.dg)};
}

OpCost cost_of(const SelectiveScan& op) {
  return {"selective_scan",
          OpWay::forward,
          0,
          op.u.cols,
          selective_operations(op.u, kSelectiveForward),
          bytes(op.u, op.z, op.dt, op.key, op.query, op.y, op.borders)};
}
OpCost cost_of(const SelectiveScanBackward& op) {
  return {"selective_scan",
          OpWay::backward,
          0,
          op.u.cols,
          selective_operations(op.u, kSelectiveBackward),
          bytes(op.u, op.z, op.dt, op.key, op.query, op.borders, op.dy, op.du, op.dz, op.ddt, op.dkey,
                op.dquery)};
}

OpCost cost_of(const CausalPool& op) {
  return {"causal_pool", OpWay::forward, 0, op.x.cols, 0, bytes(op.x, op.y)};
}
OpCost cost_of(const CausalPoolBackward& op) {
  return {"causal_pool", OpWay::backward, 0, op.dy.cols, 0, bytes(op.dy, op.dx)};
}

OpCost cost_of(const Shift& op) { return {"shift", OpWay::forward, 0, op.x.cols, 0, bytes(op.x, op.y)}; }
OpCost cost_of(const ShiftBackward& op) {
  return {"shift", OpWay::backward, 0, op.dy.cols, 0, bytes(op.dy, op.dx)};
}

OpCost cost_of(const HoldBlocks& op) {
  return {"hold_blocks", OpWay::forward, 0, op.x.cols, 0, bytes(op.x, op.y)};
}
OpCost cost_of(const HoldBlocksBackward& op) {
  return {"hold_blocks", OpWay::backward, 0, op.dy.cols, 0, bytes(op.dy, op.dx)};
}
OpCost cost_of(const CausalUpsample& op) {
  return {"causal_upsample", OpWay::forward, 0, op.y.cols, 0, bytes(op.held, op.base, op.y)};
}
OpCost cost_of(const CausalUpsampleBackward& op) {
  return {"causal_upsample", OpWay::backward, 0, op.dy.cols, 0, bytes(op.dy, op.dheld)};
}
OpCost cost_of(const ReadHeld& op) {
  return {"read_held", OpWay::forward, 0, op.y.cols, 0, bytes(op.x, op.state_in, op.base, op.y)};
}

OpCost cost_of(const Add& op) { return {"add", OpWay::forward, 0, op.y.cols, 0, bytes(op.a, op.b, op.y)}; }
OpCost cost_of(const Gate& op) {
  return {"gate", OpWay::forward, 0, op.y.cols, 0, bytes(op.x, op.gate, op.y)};
}
OpCost cost_of(const GateBackward& op) {
  return {"gate", OpWay::backward, 0, op.dy.cols, 0, bytes(op.x, op.gate, op.dy, op.dx, op.dgate)};
}

OpCost cost_of(const RotaryTable& op) {
  return {"rotary_table", OpWay::forward, 0, op.y.cols, 0, bytes(op.y)};
}
OpCost cost_of(const Rotate& op) {
  return {
      "rotate", op.inverse ? OpWay::backward : OpWay::forward, 0, op.y.cols, 0, bytes(op.x, op.table, op.y)};
}

OpCost cost_of(const Attention& op) {
  const double each = real(op.q.cols / op.shape.heads);
  return {"attention",
          OpWay::forward,
          0,
          op.q.cols,
          4 * each * scores(op.segments, op.positions, op.shape),
          bytes(op.q, op.k, op.v, op.y)};
}
OpCost cost_of(const AttentionBackward& op) {
  // The scores again, and the gradients of weights, values, keys and queries: five products for two.
  const double each = real(op.q.cols / op.shape.heads);
  return {"attention",
          OpWay::backward,
          0,
          op.q.cols,
          10 * each * scores(op.segments, op.positions, op.shape),
          bytes(op.q, op.k, op.v, op.y, op.dy, op.dq, op.dk, op.dv)};
}
OpCost cost_of(const KeepKeys& op) {
  return {"keep_keys", OpWay::forward, 0, op.k.cols, 0, 2 * bytes(op.k, op.v)};
}
OpCost cost_of(const KeepKeysBackward& op) {
  return {"keep_keys", OpWay::backward, 0, op.dk.cols, 0, 3 * bytes(op.dk, op.dv)};
}

OpCost cost_of(const FeatureMap& op) {
  return {"feature_map",
          OpWay::forward,
          op.x.cols,
          op.y.cols,
          product(op.x.rows, op.x.cols, op.weight.cols),
          bytes(op.x, op.weight, op.y)};
}
OpCost cost_of(const FeatureMapBackward& op) {
  return {"feature_map",
          OpWay::backward,
          op.x.cols,
          op.dy.cols,
          2 * product(op.x.rows, op.x.cols, op.weight.cols),
          bytes(op.x, op.weight, op.y, op.dy, op.dx, summed(op.dweight))};
}

OpCost cost_of(const MatrixScan& op) {
  return {"matrix_scan",
          OpWay::forward,
          op.q.cols,
          op.y.cols,
          kMatrixForward * matrix_numbers(op.k, op.shape) + matrix_reads(op.q, op.shape),
          bytes(op.q, op.k, op.v, op.g, op.y, op.borders)};
}
OpCost cost_of(const MatrixScanBackward& op) {
  return {"matrix_scan",
          OpWay::backward,
          op.q.cols,
          op.dy.cols,
          kMatrixBackward * matrix_numbers(op.k, op.shape) + 2 * matrix_reads(op.q, op.shape),
          bytes(op.q, op.k, op.v, op.g, op.borders, op.y, op.dy, op.dq, op.dk, op.dv, op.dg)};
}
OpCost cost_of(const WeightedMean& op) {
  return {"weighted_mean", OpWay::forward, 0, op.y.cols, 0, bytes(op.x, op.y)};
}
OpCost cost_of(const WeightedMeanBackward& op) {
  return {"weighted_mean", OpWay::backward, 0, op.dy.cols, 0, bytes(op.x, op.y, op.dy, op.dx)};
}

OpCost cost_of(const SquaredError& op) {
  return {
      "squared_error", op.dx ? OpWay::both : OpWay::forward, 0, op.x.cols, 0, bytes(op.x, op.target, op.dx)};
}
OpCost cost_of(const LinearCrossEntropy& op) {
  const double teachers =
      op.teacher.x ? product(op.teacher.x.rows, op.teacher.x.cols, op.teacher.weight.rows) : 0;
  const double products = 1 + (op.dx ? 1 : 0) + (op.dweight ? 1 : 0);
  return {"linear_cross_entropy",
          op.dx ? OpWay::both : OpWay::forward,
          op.x.cols,
          op.weight.rows,
          products * product(op.x.rows, op.x.cols, op.weight.rows) + teachers,
          bytes(op.x, op.weight, op.teacher.x, op.teacher.weight, op.dx, summed(op.dweight))};
}

OpCost cost_of(const SumsOfSquares& op) {
  OpCost cost{"sums_of_squares", OpWay::update, 0, 0, 0, 0};
  for (int64_t i = 0; i < op.count; ++i) cost.bytes += bytes(op.tensors[i]);
  return cost;
}
OpCost cost_of(const AdamW& op) {
  return {"adamw", OpWay::update, 0, 0, 0, 2 * bytes(op.value, op.grad, op.m, op.v)};
}
OpCost cost_of(const Muon& op) {
  // Five Newton-Schulz steps: X X^T, its square, and their sum times X, on the shorter side.
  const MuonMatrix& one = op.matrices[0];
  const auto count = static_cast<double>(op.count);
  const int64_t small = std::min(one.value.rows, one.value.cols);
  const int64_t large = std::max(one.value.rows, one.value.cols);
  return {"muon",
          OpWay::update,
          one.value.cols,
          one.value.rows,
          count * 5 * (2 * product(small, small, large) + product(small, small, small)),
          count * 2 * bytes(one.value, one.grad, one.m)};
}

}  // namespace harmonic
