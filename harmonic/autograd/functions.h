// The ops as functions of variables: what model code is written in. Each runs its op, and records its
// backward when the tape records. Shapes and formulas: the contracts in harmonic/ops.
#pragma once

#include "harmonic/autograd/tape.h"

namespace harmonic {

// The part of the batch's states that one op owns, [B, size] each. d_out may be null (zero); d_in is written.
// All are null-free while recording, but for d_out.
struct StateSlots {
  Tensor in, out;
  Tensor d_out, d_in;
};

Variable embedding(Tape& tape, const Tensor& tokens, const Parameter& table);

struct LinearOptions {
  const Parameter* bias = nullptr;
  const Variable* base = nullptr;  // added to the product
  bool negate = false;
};
Variable linear(Tape& tape, const Variable& x, const Parameter& weight, const LinearOptions& options = {});

Variable rms_norm(Tape& tape, const Variable& x, const Parameter& weight, const Parameter* gain = nullptr,
                  double epsilon = kRmsNormEpsilon);

// The same, of what matrix products alone will read (Tape::operand).
Variable rms_norm_for_products(Tape& tape, const Variable& x, const Parameter& weight,
                               double epsilon = kRmsNormEpsilon);

Variable causal_conv(Tape& tape, const Variable& x, const Parameter& weight, const Parameter& bias,
                     Activation activation, const Segments& segments, const StateSlots& state);

// What it gives is for matrix products alone.
Variable decay_scan(Tape& tape, const Variable& u, const Variable& z, const Variable& g,
                    const Parameter& skip, const Segments& segments, const StateSlots& state);

Variable selective_scan(Tape& tape, const Variable& u, const Variable& z, const Variable& dt,
                        const Variable& key, const Variable& query, const Parameter& skip,
                        const Parameter* a_log, const Segments& segments, const StateSlots& state);

Variable causal_pool(Tape& tape, const Variable& x, const Segments& segments, const int64_t* phases,
                     int64_t ratio, const Segments& blocks, const StateSlots& state);

Variable shift(Tape& tape, const Variable& x, const Segments& segments, const StateSlots& state);

Variable hold_blocks(Tape& tape, const Variable& x, const Segments& blocks, const uint8_t* fresh,
                     const Parameter& start, const StateSlots& state);

// base + the rows of `held` that each token may read.
Variable causal_upsample(Tape& tape, const Variable& held, const Segments& segments, const Segments& blocks,
                         const int64_t* phases, int64_t stride, const Variable& base);

// base + gain * the normed row of a slow level that each text's one token may read: hold_blocks, rms_norm and
// causal_upsample in one. Not while the tape records.
Variable read_held(Tape& tape, const Variable& x, const Segments& segments, const Segments& blocks,
                   const uint8_t* fresh, const Parameter& start, const Parameter& weight,
                   const Parameter& gain, const StateSlots& state, const Variable& base);

// x turned by a Step's rotary table.
Variable rotate(Tape& tape, const Variable& x, const Tensor& table);
// `cache` may be null where all segments hold whole texts.
Variable attention(Tape& tape, const Variable& q, const Variable& k, const Variable& v,
                   const AttentionShape& shape, const Segments& segments, const int64_t* positions,
                   const StateSlots& cache);

// Queries at token rate; keys, values and gates a row a block.
Variable matrix_scan(Tape& tape, const Variable& q, const Variable& k, const Variable& v, const Variable& g,
                     const Parameter& log_gain, const MatrixShape& shape, const Segments& segments,
                     const Segments& blocks, const int64_t* phases, const StateSlots& state);
Variable weighted_mean(Tape& tape, const Variable& x, int64_t heads);
Variable feature_map(Tape& tape, const Variable& x, const Parameter& weight, int64_t heads);

Variable add(Tape& tape, const Variable& a, const Variable& b);
Variable gate(Tape& tape, const Variable& x, const Variable& gate, GateKind kind);

// Writes the losses [1, R], in nats; a recording tape gets the gradient of loss_scale * sum(losses).
// With a teacher they are mixed with the divergence from it.
void linear_cross_entropy(Tape& tape, const Variable& x, const Parameter& weight, const Tensor& targets,
                          const Tensor& losses, double loss_scale, const TeacherLogits& teacher = {});

// Adds to the losses [1, R] of `target`s rows' squared distances from x, times `scale`; a recording tape gets
// the gradient of loss_scale times what is added.
void squared_error(Tape& tape, const Variable& x, const Tensor& target, const Tensor& losses, double scale,
                   double loss_scale);

}  // namespace harmonic
