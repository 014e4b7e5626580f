// Sums of rows and products of two, for the kernels that do little else. The same bits whatever the vector
// width: elements are computed alone, and sums are added up in one order.
#pragma once

#include <cstdint>

namespace harmonic::row_math {

// y = a + b; y may be a or b.
void add(const float* a, const float* b, float* y, int64_t count);
// y = x * factor; y may be x.
void scale(const float* x, float factor, float* y, int64_t count);
// y = x + factor * z; y may be x or z.
void add_scaled(const float* x, float factor, const float* z, float* y, int64_t count);
// The sum of a * b.
float dot(const float* a, const float* b, int64_t count);
// Writes x to y, or adds it when `add` is set. A null x is zero.
void put(const float* x, bool add, float* y, int64_t count);

// Asks for the cache lines of a row that will be read, or written, soon.
inline void expect_read(const float* row, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(row + i, 0);
}
inline void expect_write(const float* row, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(row + i, 1);
}

}  // namespace harmonic::row_math
