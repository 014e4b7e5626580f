// ops: kernels, forward and backward. One contract a file (X.h); X_reference.cc is its naive double-precision
// definition, X_cpu.cc the fast fp32 one, X_cuda.cu the GPU's.
//
// An op is a struct of arguments. A backend is a table with one function for each such struct (backend.h);
// callers write `backend(context, RmsNorm{...})` and never branch on the device.
//
// Conventions of all ops, unless a contract says otherwise:
// - Tensors have the backend's dtype (f64 reference, f32 cpu); a tensor described as "or null" may be left
// out.
// - Outputs are written whole and must not overlap inputs. Gradients of parameters are added to (+=).
//   Gradients of activations go through Gradient: written, or added to when `add` is set.
// - Ops on sequences take Segments; row r of a [B, ...] tensor of states belongs to segment r. A final state
// may not
//   overlap an initial one. An empty segment passes its state on unchanged.
// - Of an op's arguments, tensors of floating-point numbers lie where the backend's memory is; tokens,
// targets,
//   offsets of segments and other lists of integers lie in the program's memory and may be given up when the
//   call returns. On a device the call returns before its work is done: Backend::synchronize() waits for it.
// - On the cpu backend a row's results have the same bits whatever the other rows, segments, threads or
// vector width.
#pragma once

#include "harmonic/base/thread_pool.h"
#include "harmonic/tensor/arena.h"
#include "harmonic/tensor/tensor.h"

namespace harmonic {

// What the operands of matrix products are rounded to first; sums are f32 always.
enum class Precision : uint8_t { f32, bf16 };

// What a kernel may use besides its arguments.
struct Context {
  ThreadPool& pool;
  Arena& scratch;  // for memory that is gone when the op returns
  // Of the products of Linear and LinearCrossEntropy. Set by the backend whose op runs, not by callers.
  Precision precision = Precision::f32;
  double share = 1;  // of the program's threads that the pool has, where several work beside each other
};

// Where the gradient of an activation goes. Null: it is not wanted.
struct Gradient {
  Tensor to;
  bool add = false;
  explicit operator bool() const { return static_cast<bool>(to); }
};

// Declares the functions of each backend for an op.
#define HARMONIC_DECLARE_OP(Op)  \
  namespace reference {          \
  void run(Context&, const Op&); \
  }                              \
  namespace cpu {                \
  void run(Context&, const Op&); \
  }                              \
  namespace cuda {               \
  void run(Context&, const Op&); \
  }                              \
  static_assert(true)

}  // namespace harmonic
