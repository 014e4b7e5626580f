// A slow level's blocks brought back to token rate without a look at the future (design: position t reads
// block floor((t + 1) / stride) - 1). Two ops:
//
// HoldBlocks puts before each segment's rows the one that its readers see until its first block closes: the
// block held from before, or the learned start vector where the level has closed none yet.
//
// CausalUpsample adds to each token row the row it may read: for token t of segment b (from 0) that is row
// floor((phases[b] + t + 1) / stride) of the segment's held rows.
//
// In a step of one token a text each text reads one row alone: ReadHeld is both ops and the norm between
// them.
#pragma once

#include "harmonic/ops/rms_norm.h"

namespace harmonic {

struct HoldBlocks {
  Tensor x;         // [R', C]
  Segments blocks;  // of x
  const uint8_t* fresh =
      nullptr;       // [B]: 1 where the segment starts before the level's first block has closed
  Tensor start;      // [1, C]
  Tensor state_in;   // [B, C]: the block held; not read where fresh
  Tensor y;          // [R' + B, C]: segment b owns rows [blocks.begin(b) + b, blocks.begin(b + 1) + b + 1)
  Tensor state_out;  // [B, C]: the last closed block; zero where there is none yet
};

struct HoldBlocksBackward {
  Segments blocks;
  const uint8_t* fresh = nullptr;
  Tensor dy;          // [R' + B, C]
  Tensor dstate_out;  // [B, C] or null (zero); not read where the segment is fresh and closes no block
  Gradient dx;        // [R', C]
  Tensor dstart;      // [1, C], +=
  Tensor dstate_in;   // [B, C] or null, overwritten; zero where fresh
};

struct CausalUpsample {
  Tensor held;                      // [R' + B, C], as HoldBlocks lays it out
  Segments segments;                // of tokens
  Segments blocks;                  // of blocks
  const int64_t* phases = nullptr;  // [B], tokens of the open block, 0 <= phases[b] < stride
  int64_t stride = 1;
  Tensor base;  // [R, C] or null; may be y itself
  Tensor y;     // [R, C] = base + held
};

struct CausalUpsampleBackward {
  Segments segments, blocks;
  const int64_t* phases = nullptr;
  int64_t stride = 1;
  Tensor dy;       // [R, C]; the gradient of base is dy itself
  Gradient dheld;  // [R' + B, C]
};

// y = base + weight * gain * rms_norm(held), where held is the block that segment b's token closes, if it
// does; else the one held before. No segment has more than one token. There is no backward.
struct ReadHeld {
  Tensor x;                        // [R', C]
  Segments segments, blocks;       // of tokens; of x
  const uint8_t* fresh = nullptr;  // as HoldBlocks has it, and state_in and state_out
  Tensor start, weight, gain;      // [1, C]
  Tensor state_in;                 // [B, C]
  Tensor base;                     // [R, C]
  Tensor y;                        // [R, C]
  Tensor state_out;                // [B, C]
  double epsilon = kRmsNormEpsilon;
};

HARMONIC_DECLARE_OP(HoldBlocks);
HARMONIC_DECLARE_OP(HoldBlocksBackward);
HARMONIC_DECLARE_OP(CausalUpsample);
HARMONIC_DECLARE_OP(CausalUpsampleBackward);
HARMONIC_DECLARE_OP(ReadHeld);

}  // namespace harmonic
