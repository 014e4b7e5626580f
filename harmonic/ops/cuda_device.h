// What the ops of the cuda backend ask of the device, on the program's side: a copy of small lists where
// kernels can read them, scratch memory, and matrix products. Implemented by cuda_device.cu for a card, and
// for the processor by tests/cuda_device_on_cpu.cc. All of it happens in one order, that of the calls.
#pragma once

#include <algorithm>

#include "harmonic/ops/op.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

namespace harmonic::cuda {

// A copy that kernels can read, until all that was asked for is done. Nothing of null.
const void* staged_bytes(const void* list, int64_t bytes);
template <typename T>
const T* staged(const T* list, int64_t count) {
  return static_cast<const T*>(staged_bytes(list, count * static_cast<int64_t>(sizeof(T))));
}

// Memory of the device that is gone when the scope that the caller holds ends. Since all is done in order,
// what the next op writes there comes after what this one reads.
inline float* scratch_floats(Context& context, int64_t count) {
  return context.scratch.tensor(1, count, DType::f32).as<float>();
}
inline Tensor scratch_tensor(Context& context, int64_t rows, int64_t cols) {
  return context.scratch.tensor(rows, cols, DType::f32);
}

// Of all matrix products of the backend whose op is running.
Precision precision();
// Sets it for the ops that this thread calls within a scope.
class UsePrecision {
 public:
  explicit UsePrecision(Precision precision);
  ~UsePrecision();
  UsePrecision(const UsePrecision&) = delete;
  UsePrecision& operator=(const UsePrecision&) = delete;

 private:
  Precision before_;
};

// result = factor * op(a) op(b) + base, of matrices of rows. With batch > 1 each tensor but the bias, which
// is null then, has so many of equal size, one below the other, and the i-th are multiplied.
struct Product {
  Tensor a;       // [M, K], or [K, M] when transposed
  Tensor b;       // [K, N], or [N, K] when transposed
  Tensor result;  // [M, N]
  bool a_transposed = false, b_transposed = false;
  float factor = 1;
  Tensor base = {};  // [M, N] or null (zero); may be the result itself
  Tensor bias = {};  // [1, N] or null, added to each row
  int64_t batch = 1;
};
void multiply(Context& context, const Product& product);

// Bytes of shared memory that a block may ask for: 227 KiB on Hopper, less on others.
int64_t most_shared_bytes();

// Sets memory to zero, in the order of the ops.
void fill_zero(void* memory, int64_t rows, int64_t row_bytes, int64_t stride_bytes);

#ifdef __CUDACC__
cudaStream_t stream();
// Throws Error with the driver's answer when it is one of failure.
void check(cudaError_t answer, const char* what);
#endif

}  // namespace harmonic::cuda
