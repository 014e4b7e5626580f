// Attention backward (Dao, arXiv 2307.08691) in two launches, so that no sum needs atomics: blocks of queries
// go over their keys and make dq, blocks of keys go over the queries that read them, head after head of a
// group, and make dk and dv. Both make scores and weights again, from the log of a query's sum.
#include "harmonic/ops/attention_pack.h"

namespace harmonic::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;

// Each packed query's log2 of the sum of its weights' measure, and dy . y: what all its weights' gradients
// have in common; [heads][rows]. Both negative, so that sums of scores and of gradients begin with them.
struct QueryStatistics {
  float *log_sum, *common;
  int64_t rows;
  __device__ void begin_copy(float* to, int64_t row, int count) const {
    const int fours = count / 4, i = static_cast<int>(threadIdx.x);
    if (i < 2 * fours) cuda::begin_copy(to + i * 4, (i < fours ? log_sum : common) + row + i % fours * 4);
  }
};

// What both launches read.
template <typename Products, int D>
struct Packed {
  using Tile = SharedRows<typename Products::Number, D>;
  using Rows = PackedRows<typename Products::Number, D>;
  PackedSegments segments;
  Rows q, k, v, dy;
  QueryStatistics statistics;
  int heads, group, width, window;
};

// How large tiles are, so that what a thread sums fits its registers, and tiles the shared memory.
template <typename Products, int D>
struct DqSizes {
  static constexpr bool kHalves = std::is_same_v<Products, Bf16Products>;
  static constexpr int kRowBlocks = D <= 64 ? 2 : 1;
  static constexpr int kKeyBlocks = D <= (kHalves ? 64 : 32) ? 8 : D <= 128 ? 4 : 2;
  static constexpr int kRowsAWarp = 16 * kRowBlocks, kQueries = kWarps * kRowsAWarp, kKeys = 8 * kKeyBlocks;
  static constexpr int kBlocks = D == 128 && kHalves ? 3 : 2;  // on a multiprocessor, by registers
};
template <typename Products, int D>
struct DkSizes {
  static constexpr bool kHalves = std::is_same_v<Products, Bf16Products>;
  static constexpr int kRowBlocks = D <= 64 ? 2 : 1;
  static constexpr int kQueryBlocks = D <= 128 || kHalves ? 4 : 2;
  static constexpr int kRowsAWarp = 16 * kRowBlocks, kKeys = kWarps * kRowsAWarp, kQueries = 8 * kQueryBlocks;
  static constexpr int kColumns = D <= 128 ? D : 128;  // of a head's, that a block makes
};

// Of scores less the log of their query's sum, and of weights' gradients less what they have in common, makes
// weights and the gradients of the scores.
template <int M, int N, typename Reads>
__device__ void differentiate(Sums<M, N>& scores, Sums<M, N>& gradients, bool all_read, Reads reads) {
  scores.for_each([](int, int, int, float& score) { score = fast_exp2(score); });
  if (!all_read)
    scores.for_each([&](int r, int n, int place, float& weight) {
      if (!reads(r, n, place)) weight = 0;
    });
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) gradients.at[m][n][e] *= scores.at[m][n][e];
}

template <typename Products, int D>
void make_dq(const AttentionBackward& op, const AttentionPlan& plan, const Packed<Products, D>& packed) {
  using Tile = typename Packed<Products, D>::Tile;
  using Size = DqSizes<Products, D>;
  constexpr int kQueries = Size::kQueries, kKeys = Size::kKeys;
  const Rows dq = rows_of(op.dq);
  const std::vector<AttentionTile> tiles = plan.tiles_of_queries(kQueries);
  const auto count = static_cast<int64_t>(tiles.size());
  const AttentionTile* tile_of = staged(tiles.data(), count);
  const float scale = softmax_scale(packed.width);
  constexpr int kQueryBytes = Tile::bytes(kQueries), kKeyBytes = Tile::bytes(kKeys);
  constexpr int kNumbersAt = 2 * kQueryBytes + 4 * kKeyBytes;
  launch<kThreads, Size::kBlocks>(
      {count * packed.heads}, kNumbersAt + 2 * kQueries * int{sizeof(float)}, [=] __device__() {
        auto* memory = dynamic_shared<unsigned char>();
        const auto tile_at = [&](int bytes) {
          return Tile{reinterpret_cast<typename Products::Number*>(memory + bytes)};
        };
        const int block = static_cast<int>(blockIdx.x), h = block % packed.heads, head = h / packed.group;
        const AttentionTile tile = tile_of[block / packed.heads];
        const AttentionSegment& s = packed.segments.segments[tile.segment];
        const Reach reach{s.first, packed.window};
        const int queries = s.queries - tile.from < kQueries ? s.queries - tile.from : kQueries;
        const int begin = reach.first_key(tile.from) / kKeys * kKeys, end = s.first + tile.from + queries;
        const auto stage = [&](int from, bool values) {
          return tile_at(2 * kQueryBytes + values * kKeyBytes + (from & kKeys) * (2 * kKeyBytes / kKeys));
        };
        const int64_t key_row = head * packed.k.rows + s.keys_at;
        const auto begin_copies = [&](int from) {
          begin_copy_of_rows<kThreads, kKeys>(stage(from, false), packed.k.of(0, key_row + from));
          begin_copy_of_rows<kThreads, kKeys>(stage(from, true), packed.v.of(0, key_row + from));
        };
        const int64_t row = h * packed.statistics.rows + s.queries_at + tile.from;
        auto* numbers = reinterpret_cast<float*>(memory + kNumbersAt);
        begin_copy_of_rows<kThreads, kQueries>(tile_at(0), packed.q.of(0, row));
        begin_copy_of_rows<kThreads, kQueries>(tile_at(kQueryBytes), packed.dy.of(0, row));
        packed.statistics.begin_copy(numbers, row, kQueries);
        begin_copies(begin);

        const int first_row = static_cast<int>(threadIdx.x) / kWarpSize * Size::kRowsAWarp;
        const int first_query = tile.from + first_row, last_query = first_query + Size::kRowsAWarp - 1;
        const Tile query_rows = tile_at(0).from_row(first_row),
                   dy_rows = tile_at(kQueryBytes).from_row(first_row);
        const float* log_sums = numbers + first_row + row_in_warp(0);
        const float* commons = log_sums + kQueries;
        const bool idle = first_query >= s.queries;
        Sums<Size::kRowBlocks, D / 8> output;
        output.clear();
        for (int from = begin; from < end; from += kKeys) {
          finish_copies();
          __syncthreads();
          if (from + kKeys < end) begin_copies(from + kKeys);
          const int last = from + kKeys - 1;
          if (idle || from > reach.first + last_query || last < reach.first_key(first_query)) continue;
          Sums<Size::kRowBlocks, Size::kKeyBlocks> scores, gradients;
          scores.for_each([&](int r, int, int, float& score) { score = log_sums[r * 8]; });
          gradients.for_each([&](int r, int, int, float& gradient) { gradient = commons[r * 8]; });
          Products::add_rows_by_rows(scores, query_rows, stage(from, false));
          Products::add_rows_by_rows(gradients, dy_rows, stage(from, true));
          differentiate(scores, gradients, reach.reads(first_query, last) && reach.reads(last_query, from),
                        [&](int r, int n, int place) {
                          return reach.reads(first_query + row_in_warp(r),
                                             from + Products::score_column(n, place));
                        });
          Products::add_sums_by_rows(output, gradients, stage(from, false));
        }
        write_rows<Products>(
            output, packed.width,
            [&](int r) {
              const int query = first_query + row_in_warp(r);
              return query < s.queries ? dq[s.row + query] + int64_t{h} * packed.width : nullptr;
            },
            [&](int) { return scale; });
      });
}

template <typename Products, int D>
void make_dk_and_dv(const AttentionBackward& op, const AttentionPlan& plan,
                    const Packed<Products, D>& packed) {
  using Tile = typename Packed<Products, D>::Tile;
  using Size = DkSizes<Products, D>;
  constexpr int kKeys = Size::kKeys, kQueries = Size::kQueries;
  const Rows dk = rows_of(op.dk), dv = rows_of(op.dv), dpast = rows_of(op.dpast);
  const std::vector<AttentionTile> tiles = plan.tiles_of_keys(kKeys, static_cast<bool>(op.dpast));
  const auto count = static_cast<int64_t>(tiles.size());
  const AttentionTile* tile_of = staged(tiles.data(), count);
  const auto kv_heads = static_cast<int>(op.shape.kv_heads);
  const int64_t capacity = capacity_of(op);
  constexpr int kKeyBytes = Tile::bytes(kKeys), kQueryBytes = Tile::bytes(kQueries);
  constexpr int kNumberBytes = kQueries * int{sizeof(float)}, kStageBytes = 2 * (kQueryBytes + kNumberBytes);
  launch<kThreads>({count * kv_heads, D / Size::kColumns}, 2 * kKeyBytes + 2 * kStageBytes, [=] __device__() {
    auto* memory = dynamic_shared<unsigned char>();
    const auto tile_at = [&](int bytes) {
      return Tile{reinterpret_cast<typename Products::Number*>(memory + bytes)};
    };
    const int block = static_cast<int>(blockIdx.x), head = block % kv_heads;
    const AttentionTile tile = tile_of[block / kv_heads];
    const int part = static_cast<int>(blockIdx.y) * Size::kColumns;
    const AttentionSegment& s = packed.segments.segments[tile.segment];
    const Reach reach{s.first, packed.window};
    // The queries that read one of these keys, of each head of the group after the other.
    const int last_key = tile.from + kKeys - 1;
    const int begin = (tile.from > s.first ? tile.from - s.first : 0) / kQueries * kQueries;
    const int64_t reached = int64_t{last_key} + packed.window - s.first;
    const int end = reached < s.queries ? static_cast<int>(reached) : s.queries;
    const int steps_a_head = end > begin ? (end - begin + kQueries - 1) / kQueries : 0;
    const int steps = steps_a_head * packed.group;
    const auto stage = [&](int step) { return 2 * kKeyBytes + step % 2 * kStageBytes; };
    const auto numbers = [&](int step) {
      return reinterpret_cast<float*>(memory + stage(step) + 2 * kQueryBytes);
    };
    const auto following = [&](int from) { return from + kQueries < end ? from + kQueries : begin; };
    int next = begin;  // of the queries that are copied next
    int64_t next_head = int64_t{head} * packed.group * packed.statistics.rows + s.queries_at;
    const auto begin_copies = [&](int step) {
      const int64_t row = next_head + next;
      begin_copy_of_rows<kThreads, kQueries>(tile_at(stage(step)), packed.q.of(0, row));
      begin_copy_of_rows<kThreads, kQueries>(tile_at(stage(step) + kQueryBytes), packed.dy.of(0, row));
      packed.statistics.begin_copy(numbers(step), row, kQueries);
      next = following(next);
      if (next == begin) next_head += packed.statistics.rows;
    };
    if (steps > 0) {
      begin_copy_of_rows<kThreads, kKeys>(tile_at(0), packed.k.of(head, s.keys_at + tile.from));
      begin_copy_of_rows<kThreads, kKeys>(tile_at(kKeyBytes), packed.v.of(head, s.keys_at + tile.from));
      begin_copies(0);
    }

    const int first_row = static_cast<int>(threadIdx.x) / kWarpSize * Size::kRowsAWarp;
    const int first_key = tile.from + first_row, last_key_of_warp = first_key + Size::kRowsAWarp - 1;
    const bool idle = first_key >= s.keys;
    Sums<Size::kRowBlocks, Size::kColumns / 8> dkeys, dvalues;
    dkeys.clear();
    dvalues.clear();
    for (int step = 0, from = begin; step < steps; ++step, from = following(from)) {
      finish_copies();
      __syncthreads();
      if (step + 1 < steps) begin_copies(step + 1);
      const int last = from + kQueries - 1;
      if (idle || first_key > reach.first + last || last_key_of_warp < reach.first_key(from)) continue;
      const Tile query_rows = tile_at(stage(step)), dy_rows = tile_at(stage(step) + kQueryBytes);
      const float *log_sums = numbers(step), *commons = log_sums + kQueries;
      Sums<Size::kRowBlocks, Size::kQueryBlocks> scores, gradients;
      scores.for_each(
          [&](int, int n, int place, float& score) { score = log_sums[Products::score_column(n, place)]; });
      gradients.for_each([&](int, int n, int place, float& gradient) {
        gradient = commons[Products::score_column(n, place)];
      });
      Products::add_rows_by_rows(scores, tile_at(0).from_row(first_row), query_rows);
      Products::add_rows_by_rows(gradients, tile_at(kKeyBytes).from_row(first_row), dy_rows);
      differentiate(scores, gradients, reach.reads(from, last_key_of_warp) && reach.reads(last, first_key),
                    [&](int r, int n, int place) {
                      return reach.reads(from + Products::score_column(n, place), first_key + row_in_warp(r));
                    });
      Products::add_sums_by_rows(dvalues, scores, dy_rows.from_column(part));
      Products::add_sums_by_rows(dkeys, gradients, query_rows.from_column(part));
    }
    // Where the gradients of a key, or a value, go; they are left out for a cache that has none.
    const int64_t width = int64_t{kv_heads} * packed.width, column = int64_t{head} * packed.width + part;
    const auto at = [&](int r, const Rows& own, int64_t cached) -> float* {
      const int key = first_key + row_in_warp(r);
      if (key >= s.keys || (key < s.first && !dpast)) return nullptr;
      return column + (key >= s.first ? own[s.row + key - s.first]
                                      : dpast[s.segment] + cache_row(s, key, capacity) * 2 * width + cached);
    };
    write_rows<Products>(
        dkeys, packed.width - part, [&](int r) { return at(r, dk, 0); },
        [](int) { return kLn2; });  // packed queries are times log2 e
    write_rows<Products>(
        dvalues, packed.width - part, [&](int r) { return at(r, dv, width); }, [](int) { return 1.0f; });
  });
}

QueryStatistics statistics_of(Context& context, const AttentionBackward& op, const AttentionPlan& plan,
                              const PackedSegments& segments) {
  const int64_t heads = op.shape.heads, rows = plan.query_rows, D = op.q.cols / heads;
  const QueryStatistics statistics{scratch_floats(context, heads * rows),
                                   scratch_floats(context, heads * rows), rows};
  const Rows y = rows_of(op.y), lse = rows_of(op.lse), dy = rows_of(op.dy);
  for_each_row(rows, [=] __device__(int64_t packed, int lane) {
    const int64_t r = segments.query_row(packed);
#pragma unroll 4
    for (int64_t h = 0; h < heads; ++h) {
      float sum = 0;
      for (int64_t c = lane; r >= 0 && c < D; c += kWarpSize) sum += dy[r][h * D + c] * y[r][h * D + c];
      sum = warp_sum(sum);
      if (lane > 0) continue;
      statistics.log_sum[h * rows + packed] = r >= 0 ? -lse[r][h] * kLog2OfE : 0;
      statistics.common[h * rows + packed] = -sum;
    }
  });
  return statistics;
}

template <typename Products, int D>
void differentiate_attention(Context& context, const AttentionBackward& op, const AttentionPlan& plan) {
  const PackedSegments segments(plan);
  const int64_t heads = op.shape.heads, width = op.q.cols / heads;
  Packing<Products, D> packing(context, plan, segments);
  const Packed<Products, D> packed{segments,
                                   packing.queries(op.q, heads, softmax_scale(width) * kLog2OfE),
                                   packing.keys(op, false),
                                   packing.keys(op, true),
                                   packing.queries(op.dy, heads, 1),
                                   statistics_of(context, op, plan, segments),
                                   static_cast<int>(heads),
                                   static_cast<int>(heads / op.shape.kv_heads),
                                   static_cast<int>(width),
                                   plan.window};
  packing.finish();
  make_dq(op, plan, packed);
  make_dk_and_dv(op, plan, packed);
}

}  // namespace

void run(Context& context, const AttentionBackward& op) {
  if (op.dpast)
    fill_zero(op.dpast.data, op.dpast.rows, op.dpast.cols * size_of(op.dpast.dtype),
              op.dpast.stride * size_of(op.dpast.dtype));
  const AttentionPlan plan(op, 1);
  if (plan.segments.empty()) return;
  for_width(op.q.cols / op.shape.heads, [&]<typename Products, int kWidth>() {
    differentiate_attention<Products, kWidth>(context, op, plan);
  });
}

}  // namespace harmonic::cuda
