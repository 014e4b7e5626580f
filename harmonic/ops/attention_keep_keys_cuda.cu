#include "harmonic/ops/attention.h"
#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {
namespace {

// The row whose token a cache keeps in a place when the segment is over, or -1: the last that wrote there.
__device__ int64_t writer(const SegmentRows& segments, const int64_t* positions, int64_t b, int64_t place,
                          int64_t capacity) {
  const int64_t length = segments.length(b), last = positions[b] + length - 1;
  if (length == 0) return -1;
  const int64_t back = ((last - place) % capacity + capacity) % capacity;
  return back < length ? segments.begin(b) + length - 1 - back : -1;
}

}  // namespace

void run(Context&, const KeepKeys& op) {
  const Rows k = rows_of(op.k), v = rows_of(op.v), past = rows_of(op.past), after = rows_of(op.after);
  const SegmentRows segments = staged(op.segments);
  const int64_t* positions = staged(op.positions, op.segments.count);
  const int64_t width = op.k.cols, capacity = op.past.cols / (2 * width);
  if (op.past.data == op.after.data) {
    // Only what is new is written.
    for_each(op.k.size(), [=] __device__(int64_t i) {
      const int64_t r = i / width, c = i % width, b = segments.of(r), t = r - segments.begin(b);
      if (t < segments.length(b) - capacity) return;
      float* to = after[b] + (positions[b] + t) % capacity * 2 * width;
      to[c] = k[r][c];
      to[width + c] = v[r][c];
    });
    return;
  }
  const int64_t columns = op.past.cols;
  for_each(op.past.size(), [=] __device__(int64_t i) {
    const int64_t b = i / columns, n = i % columns, c = n % (2 * width);
    const int64_t r = writer(segments, positions, b, n / (2 * width), capacity);
    after[b][n] = r < 0 ? past[b][n] : c < width ? k[r][c] : v[r][c - width];
  });
}

void run(Context&, const KeepKeysBackward& op) {
  const Rows dk = rows_of(op.dk), dv = rows_of(op.dv), dafter = rows_of(op.dafter), dpast = rows_of(op.dpast);
  const SegmentRows segments = staged(op.segments);
  const int64_t* positions = staged(op.positions, op.segments.count);
  const int64_t width = op.dk.cols, columns = op.dafter.cols, capacity = columns / (2 * width);
  for_each(op.dafter.size(), [=] __device__(int64_t i) {
    const int64_t b = i / columns, n = i % columns, c = n % (2 * width);
    const int64_t r = writer(segments, positions, b, n / (2 * width), capacity);
    if (r < 0) {
      dpast[b][n] += dafter[b][n];
    } else {
      (c < width ? dk[r][c] : dv[r][c - width]) += dafter[b][n];
    }
  });
}

}  // namespace harmonic::cuda
