// One forward pass over a batch: its sequences, where each stands, and its states before and after.
#pragma once

#include <vector>

#include "harmonic/model/config.h"
#include "harmonic/model/rotary_frequencies.h"
#include "harmonic/model/state.h"

namespace harmonic {

// Rows at the rate of a level of some stride: segment b's blocks that close within this pass.
struct LevelRows {
  int64_t stride = 1;
  Segments blocks;
  const int64_t* phases = nullptr;  // tokens of the block open at each segment's start
  const uint8_t* fresh = nullptr;   // 1 where no block had closed before
};

class Step {
 public:
  // `states_in`, `states_out`: a row a segment; out receives the positions too. `d_out` (or null) holds the
  // gradient that reaches the states after, `d_in` receives that of the states before; both only when the
  // tape records.
  Step(Tape& tape, const Segments& segments, const StateRows& states_in, const StateRows& states_out,
       const StateRows& d_out = {}, const StateRows& d_in = {});

  Tape& tape() { return tape_; }
  const Segments& segments() const { return segments_; }
  // Computed once for each stride. The reference stays valid for the step's life.
  const LevelRows& level(int64_t stride);
  // How many rows of the faster level each segment has in its open block of the slower one.
  const int64_t* phases(int64_t fast_stride, int64_t slow_stride);
  StateSlots slots(const StateField& field) const {
    return {in_.field(field), out_.field(field), d_out_.field(field), d_in_.field(field)};
  }
  // Copies all numbers of the states before to those after, so that ops which would but pass theirs on may be
  // left out. On a device, and where nothing is recorded.
  void copy_states();
  bool has_copied_states() const { return has_copied_states_; }
  int64_t position(int64_t b) const { return static_cast<int64_t>(in_.position(b)); }
  // [B] of the segments' first tokens.
  const int64_t* positions();
  // Whether anything has asked for them: if not, the step depends on where texts stand among the strides
  // alone.
  bool has_read_positions() const { return positions_ != nullptr; }
  // [B] of them among the tokens that a cache holds: 0 where there is none and segments are whole texts.
  const int64_t* positions_in_cache(const StateSlots& cache);
  // The cosines and sines of all rows' positions, [R, D]: one table for all layers that turn by the same
  // frequencies, which must outlive the step.
  Tensor rotary_table(const RotaryFrequencies& frequencies);

 private:
  Tape& tape_;
  Segments segments_;
  StateRows in_, out_, d_out_, d_in_;
  LevelRows levels_[HarmonicConfig::kMaxLevels];
  int level_count_ = 0;
  bool has_copied_states_ = false;
  const int64_t* positions_ = nullptr;
  struct Rotary {
    const RotaryFrequencies* frequencies;
    Tensor table;
  };
  Rotary rotary_[2] = {};  // attention's and the matrix cell's
};

}  // namespace harmonic
