// The table of functions through which ops reach a device.
#pragma once

#include <string_view>
#include <tuple>

#include "harmonic/ops/attention.h"
#include "harmonic/ops/causal_conv.h"
#include "harmonic/ops/causal_pool.h"
#include "harmonic/ops/causal_upsample.h"
#include "harmonic/ops/decay_scan.h"
#include "harmonic/ops/elementwise.h"
#include "harmonic/ops/embedding.h"
#include "harmonic/ops/feature_map.h"
#include "harmonic/ops/linear.h"
#include "harmonic/ops/linear_cross_entropy.h"
#include "harmonic/ops/matrix_scan.h"
#include "harmonic/ops/optimizer.h"
#include "harmonic/ops/rms_norm.h"
#include "harmonic/ops/rotary.h"
#include "harmonic/ops/selective_scan.h"
#include "harmonic/ops/shift.h"
#include "harmonic/ops/squared_error.h"
#include "harmonic/ops/weighted_mean.h"

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
            HoldBlocksBackward, CausalUpsample, CausalUpsampleBackward, Add, Gate, GateBackward, RotaryTable,
            Rotate, Attention, AttentionBackward, KeepKeys, KeepKeysBackward, FeatureMap, FeatureMapBackward,
            SquaredError, MatrixScan, MatrixScanBackward, WeightedMean, WeightedMeanBackward,
            LinearCrossEntropy, SumOfSquares, AdamW, Muon>;

struct Backend {
  std::string_view name;
  DType dtype;  // of parameters, activations and states
  Device device;
  AllOps ops;

  template <typename Op>
  void operator()(Context& context, const Op& op) const {
    std::get<void (*)(Context&, const Op&)>(ops.kernels)(context, op);
  }
};

// Naive, double precision: the definition of every op.
const Backend& reference_backend();
// Fast, fp32. Throws Error on a processor without the vector instructions it needs.
const Backend& cpu_backend();

}  // namespace harmonic
