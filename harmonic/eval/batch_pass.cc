#include "harmonic/eval/batch_pass.h"

namespace harmonic {
namespace {

int64_t segment_of(const Batch& batch, int64_t row) {
  return std::upper_bound(batch.offsets.begin(), batch.offsets.end(), row) - batch.offsets.begin() - 1;
}

}  // namespace

BatchPiece piece_of(const Batch& batch, int64_t begin, int64_t end, Arena& memory) {
  const auto offset = [&](int64_t s) { return batch.offsets[static_cast<size_t>(s)]; };
  const int64_t first = segment_of(batch, begin), count = segment_of(batch, end - 1) - first + 1;
  auto* offsets = memory.allocate_array<int64_t>(count + 1);
  offsets[0] = 0;
  for (int64_t s = 1; s <= count; ++s) offsets[s] = std::min(end, offset(first + s)) - begin;
  return {begin, first, {offsets, count}, offset(first) < begin, offset(first + count) > end};
}

int64_t PassCost::piece_end(const Batch& batch, int64_t begin, int64_t end, int64_t bytes) const {
  int64_t reached = begin;
  for (int64_t segments = 1, s = segment_of(batch, begin); reached < end; ++segments, ++s) {
    const int64_t affordable = begin + (bytes - segments * segment) / row;
    const int64_t border = std::min(end, batch.offsets[static_cast<size_t>(s) + 1]);
    if (affordable < border) return std::max({affordable, reached, begin + 1});
    reached = border;
  }
  return reached;
}

}  // namespace harmonic
