// Attention of segments of few queries, as when a text is generated: a block has one query of one head and a
// part of its keys, which its threads divide among themselves. Where a query has several parts, a second
// launch puts them together. Everything is f32, and keys are read where they lie.
#include "harmonic/ops/attention_tiles.h"

namespace harmonic::cuda {
namespace {

constexpr int kThreads = 256, kKeysAPart = 512;
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

// What a part leaves for the second launch: the largest score, the sum of 2 to the scores less it, and the
// sum of values with these weights.
struct PartialRows {
  float* data;
  int64_t heads, D;
  __device__ float* at(int64_t part, int64_t head) const { return data + (part * heads + head) * (D + 2); }
};

}  // namespace

void attend_few(Context& context, const Attention& op) {
  std::vector<Query> queries;
  std::vector<Part> parts;
  for (const AttentionSegment& s : AttentionPlan(op, 1).segments) {
    if (s.queries > kFewQueries) continue;
    for (int32_t i = 0; i < s.queries; ++i) {
      const int64_t end = s.first + i + 1;
      int64_t begin = op.shape.window > 0 ? std::max<int64_t>(0, end - op.shape.window) : 0;
      const auto first_part = static_cast<int64_t>(parts.size());
      for (; begin < end; begin += kKeysAPart)
        parts.push_back({static_cast<int64_t>(queries.size()), static_cast<int32_t>(begin),
                         static_cast<int32_t>(std::min(end, begin + kKeysAPart))});
      queries.push_back({s, s.row + i, first_part, static_cast<int64_t>(parts.size()) - first_part});
    }
  }
  if (queries.empty()) return;
  const auto heads = static_cast<int>(op.shape.heads), group = heads / static_cast<int>(op.shape.kv_heads);
  const auto D = static_cast<int>(op.q.cols / heads);
  const auto part_count = static_cast<int64_t>(parts.size()),
             query_count = static_cast<int64_t>(queries.size());
  const Part* part_of = staged(parts.data(), part_count);
  const Query* query_of = staged(queries.data(), query_count);
  const KeyRows keys = key_rows(op, false), values = key_rows(op, true);
  const Rows q = rows_of(op.q), y = rows_of(op.y), lse = rows_of(op.lse);
  const PartialRows partial{scratch_floats(context, part_count * heads * (D + 2)), heads, D};
  const bool fours = by_fours(op.k, D) && (!op.past || by_fours(op.past, D));
  const float scale = softmax_scale(D) * kLog2E;
  // Threads that add up values: so many side by side have a row's columns.
  int columns = kWarpSize;
  while (columns < D) columns *= 2;
  constexpr int64_t kFloats = kWidestHead + kKeysAPart + kThreads + kThreads / kWarpSize;
  constexpr int64_t kBytes = kKeysAPart * sizeof(const float*) + kFloats * sizeof(float);
  launch<kThreads>({part_count * heads}, kBytes, [=] __device__() {
    auto* value_of = dynamic_shared<const float*>();  // where a key's value lies
    auto* query_row = reinterpret_cast<float*>(value_of + kKeysAPart);
    float *weights = query_row + kWidestHead, *sums = weights + kKeysAPart, *across = sums + kThreads;
    const int block = static_cast<int>(blockIdx.x), index = block / heads, h = block % heads,
              head = h / group;
    const Part part = part_of[index];
    const Query& query = query_of[part.query];
    const AttentionSegment& s = query.s;
    const int thread = static_cast<int>(threadIdx.x), count = part.end - part.begin;
    for (int c = thread; c < D; c += kThreads) query_row[c] = q[query.row][h * D + c] * scale;
    __syncthreads();

    const int place = thread % kLanesAKey;
    float most = -INFINITY;
#pragma unroll 4
    for (int from = 0; from < count; from += kThreads / kLanesAKey) {
      const int j = from + thread / kLanesAKey;
      float score = 0;
      if (j < count) {
        const float* key = keys.at(s, part.begin + j) + head * D;
        if (fours) {
          for (int c = place * 4; c < D; c += kLanesAKey * 4) {
            const FourFloats four = *reinterpret_cast<const FourFloats*>(key + c);
#pragma unroll
            for (int e = 0; e < 4; ++e) score += query_row[c + e] * four.at[e];
          }
        } else {
          for (int c = place; c < D; c += kLanesAKey) score += query_row[c] * key[c];
        }
      }
      for (int by = kLanesAKey / 2; by > 0; by /= 2) score += __shfl_xor_sync(kAllLanes, score, by);
      if (j >= count) continue;
      if (place == 0) {
        weights[j] = score;
        value_of[j] = values.at(s, part.begin + j) + head * D;
      }
      most = fmaxf(most, score);
    }
    most = block_max(most, across);
    float sum = 0;
    for (int j = thread; j < count; j += kThreads) {
      weights[j] = power_of_two(weights[j] - most);
      sum += weights[j];
    }
    sum = block_sum(sum, across);

    const int c = thread % columns;
    float value = 0;
    if (c < D) {
#pragma unroll 8
      for (int j = thread / columns; j < count; j += kThreads / columns) value += weights[j] * value_of[j][c];
    }
    sums[thread] = value;
    __syncthreads();
    if (thread >= D) return;
    for (int from = columns; from < kThreads; from += columns) value += sums[from + thread];
    if (query.parts == 1) {
      y[query.row][h * D + thread] = value / sum;
      if (lse && thread == 0) lse[query.row][h] = most * kLn2 + logf(sum);
    } else {
      float* to = partial.at(index, h);
      to[2 + thread] = value;
      if (thread == 0) {
        to[0] = most;
        to[1] = sum;
      }
    }
  });
  if (part_count == query_count) return;

  for_each_row(query_count * heads, [=] __device__(int64_t i, int lane) {
    const Query& query = query_of[i / heads];
    const int64_t h = i % heads;
    if (query.parts == 1) return;
    float most = -INFINITY, sum = 0;
    for (int64_t p = 0; p < query.parts; ++p) most = fmaxf(most, partial.at(query.first_part + p, h)[0]);
    for (int64_t p = 0; p < query.parts; ++p) {
      const float* from = partial.at(query.first_part + p, h);
      sum += from[1] * power_of_two(from[0] - most);
    }
    for (int c = lane; c < D; c += kWarpSize) {
      float value = 0;
      for (int64_t p = 0; p < query.parts; ++p) {
        const float* from = partial.at(query.first_part + p, h);
        value += from[2 + c] * power_of_two(from[0] - most);
      }
      y[query.row][h * D + c] = value / sum;
    }
    if (lse && lane == 0) lse[query.row][h] = most * kLn2 + logf(sum);
  });
}

}  // namespace harmonic::cuda
