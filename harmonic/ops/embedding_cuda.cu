#include "harmonic/ops/embedding.h"

#include <numeric>
#include <vector>

#include "harmonic/ops/packed_weight_cuda.h"

namespace harmonic::cuda {

void run(Context&, const Embedding& op) {
  const Rows table = rows_of(op.table), y = rows_of(op.y);
  const int64_t columns = op.y.cols;
  const bool in_reach = op.tokens.device != Device::cpu;
  const int32_t* tokens = in_reach ? op.tokens.as<int32_t>() : staged(op.tokens.as<int32_t>(), op.y.rows);
  if (op.packed) {
    const PackedRows packed = packed_rows_of(op.packed, op.table.rows, columns);
    for_each(op.y.size(), [=] __device__(int64_t i) {
      const int64_t r = i / columns, c = i % columns;
      y[r][c] = number_of(packed, tokens[r], c);
    });
    return;
  }
  for_each(op.y.size(), [=] __device__(int64_t i) {
    const int64_t r = i / columns, c = i % columns;
    y[r][c] = table[tokens[r]][c];
  });
}

// The rows of each word, in order, are found here, so that its sum has one order and needs no atomics.
void run(Context&, const EmbeddingBackward& op) {
  const int64_t rows = op.dy.rows, columns = op.dy.cols;
  if (rows == 0) return;
  const int32_t* tokens = op.tokens.as<int32_t>();
  std::vector<int32_t> order(static_cast<size_t>(rows)), words;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
  std::vector<int64_t> first;  // in `order`, of each word
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t word = tokens[order[static_cast<size_t>(i)]];
    if (!words.empty() && words.back() == word) continue;
    words.push_back(word);
    first.push_back(i);
  }
  first.push_back(rows);
  const auto count = static_cast<int64_t>(words.size());
  const int32_t* word = staged(words.data(), count);
  const int32_t* row = staged(order.data(), rows);
  const int64_t* begin = staged(first.data(), count + 1);
  const Rows dy = rows_of(op.dy), dtable = rows_of(op.dtable);
  for_each(count * columns, [=] __device__(int64_t i) {
    const int64_t w = i / columns, c = i % columns;
    float sum = dtable[word[w]][c];
#pragma unroll 8
    for (int64_t k = begin[w]; k < begin[w + 1]; ++k) sum += dy[row[k]][c];
    dtable[word[w]][c] = sum;
  });
}

}  // namespace harmonic::cuda
