// What the two ways of the CPU's matrix scan share: where a head's rows lie, and how the work is cut.
#pragma once

#include <algorithm>

#include "harmonic/ops/matmul_worker.h"
#include "harmonic/ops/matrix_scan.h"

namespace harmonic::cpu {

// One head of keys and values of one segment.
template <typename Op>
struct MatrixHead {
  const Op& op;
  int64_t b, head, tile;  // the segment's first row of borders

  int64_t F() const { return op.shape.features; }
  int64_t D() const { return op.shape.values; }
  int64_t E() const { return D() + 1; }
  int64_t group() const { return op.shape.heads / op.shape.kv_heads; }
  int64_t tokens() const { return op.segments.length(b); }
  int64_t blocks() const { return op.blocks.length(b); }
  // How many of the segment's blocks token t has behind it, and the first token that has `count` of them.
  int64_t read(int64_t t) const { return (op.phases[b] + t + 1) / op.shape.stride; }
  int64_t first_reader(int64_t count) const {
    return std::clamp<int64_t>(count * op.shape.stride - op.phases[b] - 1, 0, tokens());
  }
  float* state(const Tensor& states, int64_t row) const {
    return states.template row<float>(row) + head * F() * E();
  }
  const float* key(int64_t j) const { return op.k.template row<float>(op.blocks.begin(b) + j) + head * F(); }
  const float* value(int64_t j) const {
    return op.v.template row<float>(op.blocks.begin(b) + j) + head * D();
  }
};

// body(head, worker) for each head of each segment, in parallel.
template <typename Op, typename Body>
void for_each_matrix_head(Context& context, const Op& op, const Body& body) {
  const MatrixShape& s = op.shape;
  HARMONIC_ASSERT(s.heads % s.kv_heads == 0 && op.q.cols == s.heads * s.features);
  HARMONIC_ASSERT(op.k.cols == s.kv_heads * s.features && op.v.cols == s.kv_heads * s.values);
  HARMONIC_ASSERT(op.g.cols == s.kv_heads && op.segments.count == op.blocks.count);
  auto* first_tile = context.scratch.allocate_array<int64_t>(op.blocks.count + 1);
  first_tile[0] = 0;
  for (int64_t b = 0; b < op.blocks.count; ++b)
    first_tile[b + 1] = first_tile[b] + std::max<int64_t>(1, ceil_div(op.blocks.length(b), kMatrixTile));
  for_each_with_worker(context, op.blocks.count * s.kv_heads, op.q.size() * s.values,
                       [&](int64_t i, MatmulWorker& worker) {
                         const int64_t b = i / s.kv_heads;
                         body(MatrixHead<Op>{op, b, i % s.kv_heads, first_tile[b]}, worker);
                       });
}

// exp(log_gain) of each head of queries, in scratch memory.
const float* matrix_gains(Context& context, const Tensor& log_gain);
// a = sigmoid(-g) of `count` rows of one head, and its slope over it, sigmoid(g).
void matrix_gates(const Tensor& g, int64_t row, int64_t head, int64_t count, float* a, float* rise);

}  // namespace harmonic::cpu
