// What an op asks of a machine, told from its arguments: the yardstick beside the time it takes.
#pragma once

#include <cstdint>
#include <string_view>

#include "harmonic/ops/attention.h"
#include "harmonic/ops/causal_conv.h"
#include "harmonic/ops/causal_pool.h"
#include "harmonic/ops/causal_upsample.h"
#include "harmonic/ops/choose_tokens.h"
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

// Of a training step. The head with its loss computes its gradients at once: "both".
enum class OpWay : uint8_t { forward, backward, both, update };
std::string_view name_of(OpWay way);

struct OpCost {
  std::string_view name;  // of a literal: "linear"
  OpWay way = OpWay::forward;
  int64_t inputs = 0, outputs = 0;  // columns, which tell one use of an op from another; 0 where they do not
  // Floating-point operations of matrix products, attention and the selective recurrence, a multiply-add
  // being two; 0 for ops whose time is the memory's.
  double operations = 0;
  double bytes = 0;  // of all its tensors, each read or written once
};

OpCost cost_of(const Embedding& op);
OpCost cost_of(const EmbeddingBackward& op);
OpCost cost_of(const Linear& op);
OpCost cost_of(const LinearBackward& op);
OpCost cost_of(const PackWeight& op);
OpCost cost_of(const RmsNorm& op);
OpCost cost_of(const RmsNormBackward& op);
OpCost cost_of(const CausalConv& op);
OpCost cost_of(const CausalConvBackward& op);
OpCost cost_of(const DecayScan& op);
OpCost cost_of(const DecayScanBackward& op);
OpCost cost_of(const SelectiveScan& op);
OpCost cost_of(const SelectiveScanBackward& op);
OpCost cost_of(const CausalPool& op);
OpCost cost_of(const CausalPoolBackward& op);
OpCost cost_of(const Shift& op);
OpCost cost_of(const ShiftBackward& op);
OpCost cost_of(const HoldBlocks& op);
OpCost cost_of(const HoldBlocksBackward& op);
OpCost cost_of(const CausalUpsample& op);
OpCost cost_of(const CausalUpsampleBackward& op);
OpCost cost_of(const ReadHeld& op);
OpCost cost_of(const Add& op);
OpCost cost_of(const Gate& op);
OpCost cost_of(const GateBackward& op);
OpCost cost_of(const RotaryTable& op);
OpCost cost_of(const Rotate& op);
OpCost cost_of(const Attention& op);
OpCost cost_of(const AttentionBackward& op);
OpCost cost_of(const KeepKeys& op);
OpCost cost_of(const KeepKeysBackward& op);
OpCost cost_of(const FeatureMap& op);
OpCost cost_of(const FeatureMapBackward& op);
OpCost cost_of(const MatrixScan& op);
OpCost cost_of(const MatrixScanBackward& op);
OpCost cost_of(const WeightedMean& op);
OpCost cost_of(const WeightedMeanBackward& op);
OpCost cost_of(const SquaredError& op);
OpCost cost_of(const LinearCrossEntropy& op);
OpCost cost_of(const ChooseTokens& op);
OpCost cost_of(const SumsOfSquares& op);
OpCost cost_of(const AdamW& op);
OpCost cost_of(const Muon& op);

}  // namespace harmonic
