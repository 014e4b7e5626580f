// Attention forward (Dao, arXiv 2307.08691): a block has a tile of queries of one head, each warp some rows
// of it, and goes over the keys, tile by tile; the next tile is copied while one is computed. Scores and
// weights stay in registers, where the softmax is kept running.
#include "harmonic/ops/attention_pack.h"

namespace harmonic::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;

// How large tiles are, so that what a thread sums fits its registers, and tiles the shared memory.
template <typename Products, int D>
struct Sizes {
  static constexpr bool kHalves = std::is_same_v<Products, Bf16Products>;
  static constexpr int kRowBlocks = D <= 128 ? 2 : 1, kKeyBlocks = kHalves && D <= 64 ? 8 : 4;
  static constexpr int kRowsAWarp = 16 * kRowBlocks, kQueries = kWarps * kRowsAWarp, kKeys = 8 * kKeyBlocks;
  static constexpr int kBlocks = D <= 32 ? 3 : 2;  // on a multiprocessor, by registers
};

__device__ float row_sum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// Weights are 2 to the score less a measure, which is about the largest score of a row so far: brought up to
// it when scores exceed it by this.
constexpr float kSlack = 8;

// For each of a lane's rows the measure, and the sum of the weights of this lane's columns.
template <int kRows>
struct Softmax {
  float measure[kRows], sum[kRows];
  bool measured[kRows];  // until then the measure is 0, and nothing was summed

  __device__ Softmax() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      measure[r] = sum[r] = 0;
      measured[r] = false;
    }
  }

  // Scores, which are less the measure already, become weights; when the measure changes, what was summed
  // with earlier weights does too. Which rows share a warp changes nothing.
  template <int M, int N, int C>
  __device__ void add(Sums<M, N>& scores, Sums<M, C>& output) {
    float largest[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) largest[r] = -INFINITY;
    scores.for_each([&](int r, int, int, float& score) { largest[r] = fmaxf(largest[r], score); });
    bool exceeds = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) exceeds = exceeds || largest[r] > most_of(r);
    if (__any_sync(kAllLanes, exceeds)) {
      float kept[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        largest[r] = row_max(largest[r]);
        const bool changes = largest[r] > most_of(r);
        if (!changes) largest[r] = 0;
        kept[r] = measured[r] ? fast_exp2(-largest[r]) : 0;
        measure[r] += largest[r];
        measured[r] = measured[r] || changes;
        sum[r] *= kept[r];
      }
      output.for_each([&](int r, int, int, float& value) { value *= kept[r]; });
      scores.for_each([&](int r, int, int, float& score) { score -= largest[r]; });
    }
    scores.for_each([&](int r, int, int, float& score) {
      score = fast_exp2(score);
      sum[r] += score;
    });
  }

 private:
  __device__ float most_of(int r) const { return measured[r] ? kSlack : -INFINITY; }
};

template <typename Products, int D>
void attend(Context& context, const Attention& op, const AttentionPlan& plan) {
  using Size = Sizes<Products, D>;
  using Tile = SharedRows<typename Products::Number, D>;
  const auto heads = static_cast<int>(op.shape.heads), group = heads / static_cast<int>(op.shape.kv_heads);
  const auto width = static_cast<int>(op.q.cols / heads);
  const PackedSegments packed(plan);
  Packing<Products, D> packing(context, plan, packed);
  const auto q = packing.queries(op.q, heads, softmax_scale(width) * kLog2OfE);
  const auto k = packing.keys(op, false), v = packing.keys(op, true);
  packing.finish();
  const Rows y = rows_of(op.y), lse = rows_of(op.lse);
  const std::vector<AttentionTile> tiles = plan.tiles_of_queries(Size::kQueries);
  const auto count = static_cast<int64_t>(tiles.size());
  const AttentionTile* tile_of = staged(tiles.data(), count);
  const int window = plan.window;
  constexpr int kKeyBytes = Tile::bytes(Size::kKeys);
  launch<kThreads, Size::kBlocks>(
      {count * heads}, Tile::bytes(Size::kQueries) + 4 * kKeyBytes, [=] __device__() {
        auto* memory = dynamic_shared<unsigned char>();
        const auto tile_at = [&](int bytes) {
          return Tile{reinterpret_cast<typename Products::Number*>(memory + bytes)};
        };
        const int block = static_cast<int>(blockIdx.x), h = block % heads, head = h / group;
        const AttentionTile tile = tile_of[block / heads];
        const AttentionSegment s = packed.segments[tile.segment];
        const Reach reach{s.first, window};
        const int queries = s.queries - tile.from < Size::kQueries ? s.queries - tile.from : Size::kQueries;
        const int begin = reach.first_key(tile.from) / Size::kKeys * Size::kKeys;
        const int end = s.first + tile.from + queries;
        const Tile query_rows = tile_at(0);
        const auto stage = [&](int from, bool values) {
          return tile_at(Tile::bytes(Size::kQueries) + values * kKeyBytes +
                         (from & Size::kKeys) * (2 * kKeyBytes / Size::kKeys));
        };
        const auto begin_copies = [&](int from) {
          begin_copy_of_rows<kThreads, Size::kKeys>(stage(from, false), k.of(head, s.keys_at + from));
          begin_copy_of_rows<kThreads, Size::kKeys>(stage(from, true), v.of(head, s.keys_at + from));
        };
        begin_copy_of_rows<kThreads, Size::kQueries>(query_rows, q.of(h, s.queries_at + tile.from));
        begin_copies(begin);

        // Of this warp.
        const int first_row = static_cast<int>(threadIdx.x) / kWarpSize * Size::kRowsAWarp;
        const int first_query = tile.from + first_row, last_query = first_query + Size::kRowsAWarp - 1;
        const bool idle = first_query >= s.queries;
        Sums<Size::kRowBlocks, D / 8> output;
        Softmax<2 * Size::kRowBlocks> softmax;
        output.clear();
        for (int from = begin; from < end; from += Size::kKeys) {
          finish_copies();
          __syncthreads();
          if (from + Size::kKeys < end) begin_copies(from + Size::kKeys);
          const int last = from + Size::kKeys - 1;
          if (idle || from > reach.first + last_query || last < reach.first_key(first_query)) continue;
          Sums<Size::kRowBlocks, Size::kKeyBlocks> scores;
          scores.for_each([&](int r, int, int, float& score) { score = -softmax.measure[r]; });
          Products::add_rows_by_rows(scores, query_rows.from_row(first_row), stage(from, false));
          if (!reach.reads(first_query, last) || !reach.reads(last_query, from))
            scores.for_each([&](int r, int n, int place, float& score) {
              if (!reach.reads(first_query + row_in_warp(r), from + Products::score_column(n, place)))
                score = -INFINITY;
            });
          softmax.add(scores, output);
          Products::add_sums_by_rows(output, scores, stage(from, true));
        }

        float scale[2 * Size::kRowBlocks];
#pragma unroll
        for (int r = 0; r < 2 * Size::kRowBlocks; ++r) {
          const float sum = row_sum(softmax.sum[r]);
          scale[r] = 1 / sum;
          const int query = first_query + row_in_warp(r);
          if (lse && query < s.queries && lane_index() % 4 == 0)
            lse[s.row + query][h] = softmax.measure[r] * kLn2 + logf(sum);
        }
        write_rows<Products>(
            output, width,
            [&](int r) {
              const int query = first_query + row_in_warp(r);
              return query < s.queries ? y[s.row + query] + int64_t{h} * width : nullptr;
            },
            [&](int r) { return scale[r]; });
      });
}

}  // namespace

void run(Context& context, const Attention& op) {
  attend_few(context, op);
  const AttentionPlan plan(op, kFewQueries + 1);
  if (plan.segments.empty()) return;
  for_width(op.q.cols / op.shape.heads,
            [&]<typename Products, int kWidth>() { attend<Products, kWidth>(context, op, plan); });
}

}  // namespace harmonic::cuda
