// Matrix products within the items of an op: each thread's own memory, and a pool of one.
#pragma once

#include "harmonic/ops/matmul.h"
#include "harmonic/ops/op.h"
#include "harmonic/ops/work_items.h"

namespace harmonic {

inline MatrixView rows_view(const float* data, int64_t stride) { return {data, stride, 1}; }

struct MatmulWorker {
  ThreadPool pool{1};
  Arena memory, scratch;

  void multiply(int64_t M, int64_t N, int64_t K, MatrixView A, MatrixView B, float* C, int64_t ldc,
                MatmulMode mode = MatmulMode::overwrite) {
    matmul(pool, scratch, M, N, K, A, B, C, ldc, mode);
  }
};

// Calls body(item, worker) for `count` items on all threads; `elements` is for the number of threads worth
// waking. What a worker keeps from call to call is memory alone.
template <typename Body>
void for_each_with_worker(Context& context, int64_t count, int64_t elements, const Body& body) {
  parallel_items(context.pool, count, workers_for(context.pool, count, elements), [&](int64_t i, int64_t) {
    static thread_local MatmulWorker worker;
    const ArenaScope scope(worker.memory);
    body(i, worker);
  });
}

}  // namespace harmonic
