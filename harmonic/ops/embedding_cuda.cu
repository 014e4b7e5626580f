#include "harmonic/ops/embedding.h"

#include <vector>

#include "harmonic/ops/packed_weight_cuda.h"

namespace harmonic::cuda {
namespace {

struct Word {
  int32_t id;
  int64_t first_part;
};

}  // namespace

void run(Context&, const Embedding& op) {
  const Rows table = rows_of(op.table), y = rows_of(op.y);
  const bool in_reach = op.tokens.device != Device::cpu;
  const int32_t* tokens = in_reach ? op.tokens.as<int32_t>() : staged(op.tokens.as<int32_t>(), op.y.rows);
  if (op.packed) {
    const PackedRows packed = packed_rows_of(op.packed, op.table.rows, op.table.cols);
    for_each_element(op.y.rows, op.y.cols,
                     [=] __device__(int64_t r, int64_t c) { y[r][c] = number_of(packed, tokens[r], c); });
    return;
  }
  for_each_four(op.y.rows, op.y.cols, {op.table, op.y}, [=] __device__(int64_t r, const Columns& columns) {
    columns.put(y[r], columns.of(table[tokens[r]]));
  });
}

// The rows of each word, in order, are found here, so that its sum has one order and needs no atomics. A word
// of many rows is summed in parts, whose sums are added up in order.
void run(Context& context, const EmbeddingBackward& op) {
  constexpr int64_t kPart = 64;
  const int64_t rows = op.dy.rows, columns = op.dy.cols, words = op.dtable.rows;
  if (rows == 0) return;
  const int32_t* tokens = op.tokens.as<int32_t>();
  std::vector<int32_t> next(static_cast<size_t>(words) + 1);  // place in `order` of a word's next row
  for (int64_t r = 0; r < rows; ++r) ++next[static_cast<size_t>(tokens[r]) + 1];
  std::vector<Word> used;
  std::vector<int64_t> first;  // in `order`, of each part
  for (int32_t word = 0; word < words; ++word) {
    const auto w = static_cast<size_t>(word);
    const int32_t count = next[w + 1];
    next[w + 1] += next[w];
    if (count == 0) continue;
    used.push_back({word, static_cast<int64_t>(first.size())});
    for (int64_t done = 0; done < count; done += kPart) first.push_back(next[w] + done);
  }
  const auto parts = static_cast<int64_t>(first.size()), count = static_cast<int64_t>(used.size());
  first.push_back(rows);
  used.push_back({0, parts});
  std::vector<int32_t> order(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r)
    order[static_cast<size_t>(next[static_cast<size_t>(tokens[r])]++)] = static_cast<int32_t>(r);
  const int32_t* row = staged(order.data(), rows);
  const int64_t* begin = staged(first.data(), parts + 1);
  const Word* word = staged(used.data(), count + 1);
  const Rows dy = rows_of(op.dy), dtable = rows_of(op.dtable);
  const Rows sums = rows_of(scratch_tensor(context, parts, columns));
  for_each_element(parts, columns, [=] __device__(int64_t p, int64_t c) {
    float sum = 0;
#pragma unroll 8
    for (int64_t k = begin[p]; k < begin[p + 1]; ++k) sum += dy[row[k]][c];
    sums[p][c] = sum;
  });
  for_each_element(count, columns, [=] __device__(int64_t w, int64_t c) {
    float sum = dtable[word[w].id][c];
    for (int64_t p = word[w].first_part; p < word[w + 1].first_part; ++p) sum += sums[p][c];
    dtable[word[w].id][c] = sum;
  });
}

}  // namespace harmonic::cuda
