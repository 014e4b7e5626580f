// Forward. Scores are matrix products of a block of queries and a tile of keys.
#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/attention_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/attention_softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// Takes the scores of a block's query into its softmax, and its output (D numbers) to the scale of the
// weights.
void SoftmaxRow(Readable readable, float scale, int64_t D, float* scores, float& largest, float& sum,
                float* output) {
  ScaleRow(SoftmaxTile(readable, scale, scores, largest, sum), D, output);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace harmonic::cpu {
namespace {

HWY_EXPORT(SoftmaxRow);
HWY_EXPORT(FinishRow);

void forward_block(const Attention& op, const QueryBlock& block, MatmulWorker& worker) {
  const Rows<Attention> rows{op};
  const int64_t D = rows.D(), g = block.h / rows.group(), count = block.end - block.begin;
  float* scores = worker.memory.allocate_array<float>(count * kKeys);
  float* output = worker.memory.zeros(count, D, DType::f32).as<float>();
  float* copy = worker.memory.allocate_array<float>(2 * kKeys * D);
  float* largest = worker.memory.allocate_array<float>(count);
  float* sum = worker.memory.allocate_array<float>(count);
  std::fill_n(largest, count, -INFINITY);
  std::fill_n(sum, count, 0.0f);
  const int64_t row = rows.own_row(block.b, block.begin);
  for (int64_t tile = rows.first_tile(block.begin); tile < block.end; tile += kKeys) {
    const int64_t keys = std::min(kKeys, block.end - tile);
    const MatrixView k = rows.tile_of(false, block.b, g, tile, keys, copy);
    const MatrixView v = rows.tile_of(true, block.b, g, tile, keys, copy + kKeys * D);
    // Queries before the tile read none of it.
    const int64_t from = std::max<int64_t>(0, tile - block.begin), readers = count - from;
    worker.multiply(readers, keys, D, rows_view(op.q.row<float>(row + from) + block.h * D, op.q.stride),
                    k.transposed(), scores, kKeys);
    for (int64_t m = from; m < count; ++m) HWY_DYNAMIC_DISPATCH(SoftmaxRow)
    (rows.readable(block.begin + m, tile, keys), rows.scale(), D, scores + (m - from) * kKeys, largest[m],
     sum[m], output + m * D);
    worker.multiply(readers, D, keys, rows_view(scores, kKeys), v, output + from * D, D,
                    MatmulMode::accumulate);
  }
  for (int64_t m = 0; m < count; ++m) {
    const float lse = HWY_DYNAMIC_DISPATCH(FinishRow)(largest[m], sum[m], D, output + m * D,
                                                      op.y.row<float>(row + m) + block.h * D);
    if (op.lse) op.lse.row<float>(row + m)[block.h] = lse;
  }
}

}  // namespace

void run(Context& context, const Attention& op) {
  check_attention(op);
  bool one_query_each = op.q.cols / op.shape.heads % 4 == 0;
  for (int64_t b = 0; b < op.segments.count; ++b)
    one_query_each = one_query_each && op.segments.length(b) <= 1;
  if (one_query_each) return attend_one_query_each(context, op);
  for_each_query_block(
      context, op, [&](const QueryBlock& block, MatmulWorker& worker) { forward_block(op, block, worker); });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
