// Attention of segments of few queries, as when a text is generated: a block has a query of some heads that
// read the same keys, and a part of these, which its threads divide among themselves. Where a query has
// several parts, a second launch puts them together. Everything is f32, and keys are read where they lie.
#include "harmonic/ops/attention_tiles.h"

namespace harmonic::cuda {
namespace {

constexpr int kThreads = 256, kKeysAPart = 256;
constexpr int kLanesAKey = 8;  // that share a key's dot product

// Of a query: keys begin, ... end - 1 of its segment.
struct Part {
  int64_t query;  // index in the list of queries
  int32_t begin, end;
};
struct Query {
  AttentionSegment s;
  int64_t row, first_part, parts;
};

// The queries of short segments and their parts.
struct FewQueries {
  std::vector<Query> queries;
  std::vector<Part> parts;
  const Query* query_of = nullptr;
  const Part* part_of = nullptr;

  explicit FewQueries(const Attention& op) {
    const AttentionPlan plan(op, 1);
    for (const AttentionSegment& s : plan.segments) {
      for (int32_t i = 0; i < s.queries && s.queries <= kFewQueries; ++i) {
        const int64_t end = s.first + i + 1;
        const auto first_part = static_cast<int64_t>(parts.size());
        for (int64_t from = std::max<int64_t>(0, end - plan.window); from < end; from += kKeysAPart)
          parts.push_back({static_cast<int64_t>(queries.size()), static_cast<int32_t>(from),
                           static_cast<int32_t>(std::min(end, from + kKeysAPart))});
        queries.push_back({s, s.row + i, first_part, static_cast<int64_t>(parts.size()) - first_part});
      }
    }
    query_of = staged(queries.data(), static_cast<int64_t>(queries.size()));
    part_of = staged(parts.data(), static_cast<int64_t>(parts.size()));
  }
};

// What a part leaves for the second launch: the largest score, the sum of 2 to the scores less it, and the
// sum of values with these weights.
struct PartialRows {
  float* data;
  int64_t heads, D;
  __device__ float* at(int64_t part, int64_t head) const { return data + (part * heads + head) * (D + 2); }
};

// kHeads heads of a query read the same keys.
template <int kHeads>
void attend_parts(const Attention& op, const FewQueries& few, const PartialRows& partial) {
  const auto heads = static_cast<int>(op.shape.heads), group = heads / static_cast<int>(op.shape.kv_heads);
  const auto D = static_cast<int>(op.q.cols / heads);
  const Query* query_of = few.query_of;
  const Part* part_of = few.part_of;
  const KeyRows keys = key_rows(op, false), values = key_rows(op, true);
  const Rows q = rows_of(op.q), y = rows_of(op.y), lse = rows_of(op.lse);
  const bool keys_at_once = by_fours(op.k, D) && (!op.past || by_fours(op.past, D));
  const bool values_at_once = by_fours(op.v, D) && (!op.past || by_fours(op.past, D));
  const float scale = softmax_scale(D) * kLog2OfE;
  // Of the sums of values: so many threads side by side have four columns each of a key's.
  int side_by_side = 1;
  while (side_by_side * 4 < D) side_by_side *= 2;
  constexpr int kQueryFloats = static_cast<int>(kWidestHead), kSums = kThreads * 4;
  constexpr int64_t kFloats = kHeads * (kQueryFloats + kKeysAPart + kSums) + kThreads / kWarpSize;
  constexpr int64_t kBytes = kKeysAPart * sizeof(const float*) + kFloats * sizeof(float);
  const auto part_count = static_cast<int64_t>(few.parts.size());
  launch<kThreads>({part_count * (heads / kHeads)}, kBytes, [=] __device__() {
    auto* value_of = dynamic_shared<const float*>();  // where a key's value lies
    auto* query_rows = reinterpret_cast<float*>(value_of + kKeysAPart);
    float *weights = query_rows + kHeads * kQueryFloats, *sums = weights + kHeads * kKeysAPart;
    float* across = sums + kHeads * kSums;
    const int block = static_cast<int>(blockIdx.x), blocks_a_part = heads / kHeads;
    const int index = block / blocks_a_part, h = block % blocks_a_part * kHeads, head = h / group;
    const Part part = part_of[index];
    const Query& query = query_of[part.query];
    const AttentionSegment& s = query.s;
    const int thread = static_cast<int>(threadIdx.x), count = part.end - part.begin;
    for (int i = thread; i < kHeads * kQueryFloats; i += kThreads) {
      const int g = i / kQueryFloats, c = i % kQueryFloats;
      query_rows[i] = c < D ? q[query.row][(h + g) * D + c] * scale : 0;
    }
    __syncthreads();

    const int place = thread % kLanesAKey;
    float most[kHeads], sum[kHeads];
#pragma unroll
    for (int g = 0; g < kHeads; ++g) most[g] = -INFINITY;
#pragma unroll 4
    for (int from = 0; from < count; from += kThreads / kLanesAKey) {
      const int j = from + thread / kLanesAKey;
      float score[kHeads] = {};
      if (j < count) {
        const float* key = keys.at(s, part.begin + j) + head * D;
        for (int c = place * 4; c < D; c += kLanesAKey * 4) {
          const Pack<float> four = four_of(key, c, D, keys_at_once);
#pragma unroll
          for (int g = 0; g < kHeads; ++g)
#pragma unroll
            for (int e = 0; e < 4; ++e) score[g] += query_rows[g * kQueryFloats + c + e] * four.numbers[e];
        }
        if (place == 0) value_of[j] = values.at(s, part.begin + j) + head * D;
      }
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        for (int by = kLanesAKey / 2; by > 0; by /= 2) score[g] += __shfl_xor_sync(kAllLanes, score[g], by);
        if (j >= count) continue;
        if (place == 0) weights[g * kKeysAPart + j] = score[g];
        most[g] = fmaxf(most[g], score[g]);
      }
    }
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      most[g] = block_max(most[g], across);
      float added = 0;
      for (int j = thread; j < count; j += kThreads) {
        float& weight = weights[g * kKeysAPart + j];
        weight = fast_exp2(weight - most[g]);
        added += weight;
      }
      sum[g] = block_sum(added, across);
    }

    float value[kHeads][4] = {};
    if (const int c = thread % side_by_side * 4; c < D) {
#pragma unroll 8
      for (int j = thread / side_by_side; j < count; j += kThreads / side_by_side) {
        const Pack<float> four = four_of(value_of[j], c, D, values_at_once);
#pragma unroll
        for (int g = 0; g < kHeads; ++g)
#pragma unroll
          for (int e = 0; e < 4; ++e) value[g][e] += weights[g * kKeysAPart + j] * four.numbers[e];
      }
    }
#pragma unroll
    for (int g = 0; g < kHeads; ++g)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[g * kSums + thread * 4 + e] = value[g][e];
    __syncthreads();
#pragma unroll
    for (int g = 0; g < kHeads; ++g)
      for (int c = thread; c < D; c += kThreads) {
        float total = 0;
        for (int from = c; from < kSums; from += side_by_side * 4) total += sums[g * kSums + from];
        if (query.parts == 1) {
          y[query.row][(h + g) * D + c] = total / sum[g];
          if (lse && c == 0) lse[query.row][h + g] = most[g] * kLn2 + logf(sum[g]);
        } else {
          float* to = partial.at(index, h + g);
          to[2 + c] = total;
          if (c == 0) {
            to[0] = most[g];
            to[1] = sum[g];
          }
        }
      }
  });
}

void join_parts(const Attention& op, const FewQueries& few, const PartialRows& partial) {
  const Rows y = rows_of(op.y), lse = rows_of(op.lse);
  const Query* query_of = few.query_of;
  const int64_t heads = partial.heads, D = partial.D;
  for_each_row(static_cast<int64_t>(few.queries.size()) * heads, [=] __device__(int64_t i, int lane) {
    const Query& query = query_of[i / heads];
    const int64_t h = i % heads;
    if (query.parts == 1) return;
    float most = -INFINITY, sum = 0;
    for (int64_t p = 0; p < query.parts; ++p) most = fmaxf(most, partial.at(query.first_part + p, h)[0]);
    for (int64_t p = 0; p < query.parts; ++p) {
      const float* from = partial.at(query.first_part + p, h);
      sum += from[1] * fast_exp2(from[0] - most);
    }
    for (int64_t c = lane; c < D; c += kWarpSize) {
      float value = 0;
#pragma unroll 4
      for (int64_t p = 0; p < query.parts; ++p) {
        const float* from = partial.at(query.first_part + p, h);
        value += from[2 + c] * fast_exp2(from[0] - most);
      }
      y[query.row][h * D + c] = value / sum;
    }
    if (lse && lane == 0) lse[query.row][h] = most * kLn2 + logf(sum);
  });
}

}  // namespace

void attend_few(Context& context, const Attention& op) {
  const FewQueries few(op);
  if (few.queries.empty()) return;
  const int64_t heads = op.shape.heads, group = heads / op.shape.kv_heads, D = op.q.cols / heads;
  const bool joins = few.parts.size() > few.queries.size();
  const int64_t partial_floats = joins ? static_cast<int64_t>(few.parts.size()) * heads * (D + 2) : 0;
  const PartialRows partial{scratch_floats(context, partial_floats), heads, D};
  if (group % 4 == 0) {
    attend_parts<4>(op, few, partial);
  } else if (group % 2 == 0) {
    attend_parts<2>(op, few, partial);
  } else {
    attend_parts<1>(op, few, partial);
  }
  if (joins) join_parts(op, few, partial);
}

}  // namespace harmonic::cuda
