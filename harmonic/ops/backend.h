// The table of functions through which ops reach a device.
#pragma once

#include <string_view>
#include <tuple>

#include "harmonic/ops/op_cost.h"

namespace harmonic {

template <typename... Ops>
struct OpTable {
  std::tuple<void (*)(Context&, const Ops&)...> kernels;
};

// Every op there is. A new op is a contract, its kernels, and its name here.
using AllOps =
    OpTable<Embedding, EmbeddingBackward, Linear, LinearBackward, PackWeight, RmsNorm, RmsNormBackward,
            CausalConv, CausalConvBackward, DecayScan, DecayScanBackward, SelectiveScan,
            SelectiveScanBackward, CausalPool, CausalPoolBackward, Shift, ShiftBackward, HoldBlocks,
            HoldBlocksBackward, CausalUpsample, CausalUpsampleBackward, ReadHeld, Add, Gate, GateBackward,
            RotaryTable, Rotate, Attention, AttentionBackward, KeepKeys, KeepKeysBackward, FeatureMap,
            FeatureMapBackward, SquaredError, MatrixScan, MatrixScanBackward, WeightedMean,
            WeightedMeanBackward, LinearCrossEntropy, ChooseTokens, SumsOfSquares, AdamW, Muon>;

// Is told of every op that a backend runs, before and after; by several threads at once where several run
// ops. `share` is the context's.
class OpObserver {
 public:
  virtual ~OpObserver() = default;
  virtual void begin() = 0;
  virtual void end(const OpCost& cost, double share) = 0;
};

// Keeps what a device is asked for, to do it again at little cost. Recordings are told by numbers.
class WorkRecorder {
 public:
  virtual ~WorkRecorder() = default;
  // Until end(), what the program asks of the backend is recorded and not done, and the device may not be
  // waited for. A recording holds the lists of integers that ops were given, as they were, but tensors and
  // other pointers where they lie: it is as good as these. No memory is to be drawn meanwhile: what is to be
  // recorded has been done once before, with the same arenas.
  virtual void begin() = 0;
  virtual int64_t end() = 0;
  // Forgets what was recorded since begin().
  virtual void abandon() noexcept = 0;
  // In the order of the ops.
  virtual void replay(int64_t recording) = 0;
  virtual void forget(int64_t recording) noexcept = 0;
};

struct Backend {
  std::string_view name;
  DType dtype;  // of parameters, activations and states
  Device device;
  AllOps ops;
  OpObserver* observer = nullptr;  // or whom to tell, of a copy of a backend
  // Of a device; null where any memory will do and ops are done when they return.
  MemorySource* memory = nullptr;
  void (*wait)() = nullptr;
  void (*fill_zero)(void* memory, int64_t rows, int64_t row_bytes, int64_t stride_bytes) = nullptr;
  Precision precision = Precision::f32;  // of matrix products
  WorkRecorder* recorder = nullptr;      // or null: nothing is recorded

  template <typename Op>
  void operator()(Context& context, const Op& op) const {
    const auto kernel = std::get<void (*)(Context&, const Op&)>(ops.kernels);
    if (observer == nullptr) return kernel(context, op);
    observer->begin();
    kernel(context, op);
    synchronize();
    observer->end(cost_of(op), context.share);
  }

  // Returns when all that was asked for is done: before the program reads what ops have written, or writes
  // what they read. Throws Error when an op has failed on the device.
  void synchronize() const {
    if (wait) wait();
  }
  // Sets a tensor to zero, in the order of the ops.
  void zero(const Tensor& tensor) const;
};

// Naive, double precision: the definition of every op.
const Backend& reference_backend();
// Fast, fp32. Throws Error on a processor without the vector instructions it needs.
const Backend& cpu_backend();

// The same two, but that Linear, LinearBackward and LinearCrossEntropy round the operands of their products
// to bf16 (to the nearest, ties to even). Biases, sums, losses and every other op are as above. The second
// throws Error (usage), naming the processor, where that has no such products (matmul.h).
const Backend& reference_bf16_backend();
const Backend& cpu_bf16_backend();

}  // namespace harmonic
