// What this machine can do, measured now: the yardsticks beside which speeds are reported.
#pragma once

#include "harmonic/base/thread_pool.h"
#include "harmonic/ops/op.h"

namespace harmonic {

// Floating-point operations per second of fused multiply-adds (two each) on registers alone, on all threads
// of the pool at once, with the vectors that kernels use: the matrix peak. Takes about 0.08 seconds. In bf16
// those of its products, pairs or tiles of them; 0 on a processor without them (multiplies_in_bf16).
double measure_matrix_peak(ThreadPool& pool, Precision precision = Precision::f32);

// Bytes per second from and to memory of a[i] = b[i] + s * c[i] on all threads, arrays of 64 MB each; two
// reads and one write are counted, not the read that a write may cause. The median of several passes, about
// 0.3 seconds in all.
double measure_bandwidth(ThreadPool& pool);

// The same for reading alone, the limit of decoding: the sum of an array of 192 MB.
double measure_read_bandwidth(ThreadPool& pool);

}  // namespace harmonic
