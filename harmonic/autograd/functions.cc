#include "harmonic/autograd/functions.h"

namespace harmonic {
namespace {

Variable normed(Tape& tape, const Variable& x, const Parameter& weight, const Parameter* gain, double epsilon,
                Variable y) {
  const Tensor g = gain ? gain->value : Tensor{}, dgain = gain ? tape.gradient_of(*gain) : Tensor{};
  tape.run(RmsNorm{x.value, weight.value, g, y.value, epsilon});
  tape.record(y, [=, w = weight.value, dweight = tape.gradient_of(weight)](Tape& t) {
    t.run(RmsNormBackward{x.value, w, g, t.gradient(y), t.contribute(x), dweight, dgain, epsilon});
  });
  return y;
}

}  // namespace

Variable embedding(Tape& tape, const Tensor& tokens, const Parameter& table) {
  Variable y = tape.variable(tokens.cols, table.value.cols);
  tape.run(Embedding{tokens, table.value, table.packed, y.value});
  tape.record(y, [=, dtable = tape.gradient_of(table)](Tape& t) {
    if (dtable) t.run(EmbeddingBackward{tokens, t.gradient(y), dtable});
  });
  return y;
}

Variable linear(Tape& tape, const Variable& x, const Parameter& weight, const LinearOptions& options) {
  Variable y = tape.variable(x.value.rows, weight.value.rows);
  const Tensor bias = options.bias ? options.bias->value : Tensor{};
  const Tensor dbias = options.bias ? tape.gradient_of(*options.bias) : Tensor{};
  const Variable base = options.base ? *options.base : Variable{};
  const bool negate = options.negate;
  tape.run(Linear{x.value, weight.value, weight.packed, bias, base.value, negate, y.value});
  tape.record(y, [=, w = weight.value, dweight = tape.gradient_of(weight)](Tape& t) {
    t.run(LinearBackward{x.value, w, negate, t.gradient(y), t.contribute(x), dweight, dbias});
    if (base.value) t.pass(y, base);
  });
  return y;
}

Variable rms_norm(Tape& tape, const Variable& x, const Parameter& weight, const Parameter* gain,
                  double epsilon) {
  return normed(tape, x, weight, gain, epsilon, tape.variable(x.value.rows, x.value.cols));
}

Variable rms_norm_for_products(Tape& tape, const Variable& x, const Parameter& weight, double epsilon) {
  return normed(tape, x, weight, nullptr, epsilon, tape.operand(x.value.rows, x.value.cols));
}

Variable causal_conv(Tape& tape, const Variable& x, const Parameter& weight, const Parameter& bias,
                     Activation activation, const Segments& segments, const StateSlots& state) {
  Variable y = tape.variable(x.value.rows, x.value.cols);
  tape.run(CausalConv{x.value, weight.value, bias.value, segments, state.in, y.value, state.out, activation});
  tape.record(y, [=, w = weight.value, b = bias.value, dweight = tape.gradient_of(weight),
                  dbias = tape.gradient_of(bias)](Tape& t) {
    t.run(CausalConvBackward{x.value, w, b, segments, state.in, activation, t.gradient(y), state.d_out,
                             t.contribute(x), state.d_in, dweight, dbias});
  });
  return y;
}

Variable decay_scan(Tape& tape, const Variable& u, const Variable& z, const Variable& g,
                    const Parameter& skip, const Segments& segments, const StateSlots& state) {
  Variable y = tape.operand(u.value.rows, u.value.cols);
  const Tensor borders = tape.recording() ? tape.saved(scan_tiles(segments), u.value.cols) : Tensor{};
  tape.run(DecayScan{u.value, z.value, g.value, skip.value, segments, state.in, y.value, state.out, borders});
  tape.record(y, [=, d = skip.value, dskip = tape.gradient_of(skip)](Tape& t) {
    t.run(DecayScanBackward{u.value, z.value, g.value, d, segments, borders, t.gradient(y), state.d_out,
                            t.overwrite(u), t.overwrite(z), t.overwrite(g), state.d_in, dskip});
  });
  return y;
}

Variable selective_scan(Tape& tape, const Variable& u, const Variable& z, const Variable& dt,
                        const Variable& key, const Variable& query, const Parameter& skip,
                        const Parameter* a_log, const Segments& segments, const StateSlots& state) {
  Variable y = tape.variable(u.value.rows, u.value.cols);
  const Tensor borders =
      tape.recording() ? tape.saved(scan_tiles(segments), kSelectiveState * u.value.cols) : Tensor{};
  const Tensor rates = a_log ? a_log->value : Tensor{}, drates = a_log ? tape.gradient_of(*a_log) : Tensor{};
  tape.run(SelectiveScan{u.value, z.value, dt.value, key.value, query.value, skip.value, rates, segments,
                         state.in, y.value, state.out, borders});
  tape.record(y, [=, d = skip.value, dskip = tape.gradient_of(skip)](Tape& t) {
    t.run(SelectiveScanBackward{u.value, z.value, dt.value, key.value, query.value, d, rates, segments,
                                borders, t.gradient(y), state.d_out, t.overwrite(u), t.overwrite(z),
                                t.overwrite(dt), t.overwrite(key), t.overwrite(query), state.d_in, dskip,
                                drates});
  });
  return y;
}

Variable causal_pool(Tape& tape, const Variable& x, const Segments& segments, const int64_t* phases,
                     int64_t ratio, const Segments& blocks, const StateSlots& state) {
  Variable y = tape.variable(blocks.rows(), x.value.cols);
  tape.run(CausalPool{x.value, segments, phases, ratio, blocks, state.in, y.value, state.out});
  tape.record(y, [=](Tape& t) {
    t.run(CausalPoolBackward{segments, phases, ratio, blocks, t.gradient(y), state.d_out, t.contribute(x),
                             state.d_in});
  });
  return y;
}

Variable shift(Tape& tape, const Variable& x, const Segments& segments, const StateSlots& state) {
  Variable y = tape.variable(x.value.rows, x.value.cols);
  tape.run(Shift{x.value, segments, state.in, y.value, state.out});
  tape.record(y, [=](Tape& t) {
    t.run(ShiftBackward{segments, t.gradient(y), state.d_out, t.contribute(x), state.d_in});
  });
  return y;
}

Variable hold_blocks(Tape& tape, const Variable& x, const Segments& blocks, const uint8_t* fresh,
                     const Parameter& start, const StateSlots& state) {
  Variable y = tape.variable(blocks.rows() + blocks.count, x.value.cols);
  tape.run(HoldBlocks{x.value, blocks, fresh, start.value, state.in, y.value, state.out});
  tape.record(y, [=, dstart = tape.gradient_of(start)](Tape& t) {
    t.run(HoldBlocksBackward{blocks, fresh, t.gradient(y), state.d_out, t.contribute(x), dstart, state.d_in});
  });
  return y;
}

Variable causal_upsample(Tape& tape, const Variable& held, const Segments& segments, const Segments& blocks,
                         const int64_t* phases, int64_t stride, const Variable& base) {
  Variable y = tape.variable(base.value.rows, base.value.cols);
  tape.run(CausalUpsample{held.value, segments, blocks, phases, stride, base.value, y.value});
  tape.record(y, [=](Tape& t) {
    t.run(CausalUpsampleBackward{segments, blocks, phases, stride, t.gradient(y), t.contribute(held)});
    t.pass(y, base);
  });
  return y;
}

Variable read_held(Tape& tape, const Variable& x, const Segments& segments, const Segments& blocks,
                   const uint8_t* fresh, const Parameter& start, const Parameter& weight,
                   const Parameter& gain, const StateSlots& state, const Variable& base) {
  HARMONIC_ASSERT(!tape.recording());
  Variable y = tape.variable(base.value.rows, base.value.cols);
  tape.run(ReadHeld{x.value, segments, blocks, fresh, start.value, weight.value, gain.value, state.in,
                    base.value, y.value, state.out});
  return y;
}

Variable rotate(Tape& tape, const Variable& x, const Tensor& table) {
  Variable y = tape.variable(x.value.rows, x.value.cols);
  tape.run(Rotate{x.value, table, false, y.value});
  tape.record(y, [=](Tape& t) { t.run(Rotate{t.gradient(y), table, true, t.overwrite(x)}); });
  return y;
}

Variable attention(Tape& tape, const Variable& q, const Variable& k, const Variable& v,
                   const AttentionShape& shape, const Segments& segments, const int64_t* positions,
                   const StateSlots& cache) {
  Variable y = tape.variable(q.value.rows, q.value.cols);
  const Tensor lse = tape.recording() ? tape.saved(q.value.rows, shape.heads) : Tensor{};
  tape.run(Attention{q.value, k.value, v.value, cache.in, segments, positions, shape, y.value, lse});
  if (cache.out) tape.run(KeepKeys{k.value, v.value, segments, positions, cache.in, cache.out});
  tape.record(y, [=](Tape& t) {
    const Tensor dk = t.overwrite(k), dv = t.overwrite(v);
    t.run(AttentionBackward{q.value, k.value, v.value, cache.in, segments, positions, shape, y.value, lse,
                            t.gradient(y), t.overwrite(q), dk, dv, cache.d_in});
    if (cache.d_out) t.run(KeepKeysBackward{segments, positions, cache.d_out, dk, dv, cache.d_in});
  });
  return y;
}

Variable matrix_scan(Tape& tape, const Variable& q, const Variable& k, const Variable& v, const Variable& g,
                     const Parameter& log_gain, const MatrixShape& shape, const Segments& segments,
                     const Segments& blocks, const int64_t* phases, const StateSlots& state) {
  Variable y = tape.variable(q.value.rows, shape.heads * (shape.values + 1));
  const Tensor borders = tape.recording() ? tape.saved(matrix_tiles(blocks), shape.state()) : Tensor{};
  tape.run(MatrixScan{q.value, k.value, v.value, g.value, log_gain.value, segments, blocks, phases, shape,
                      state.in, y.value, state.out, borders});
  tape.record(y, [=, gain = log_gain.value, dgain = tape.gradient_of(log_gain)](Tape& t) {
    t.run(MatrixScanBackward{q.value, k.value, v.value, g.value, gain, segments, blocks, phases, shape,
                             borders, y.value, t.gradient(y), state.d_out, t.overwrite(q), t.overwrite(k),
                             t.overwrite(v), t.overwrite(g), state.d_in, dgain});
  });
  return y;
}

Variable weighted_mean(Tape& tape, const Variable& x, int64_t heads) {
  Variable y = tape.variable(x.value.rows, x.value.cols - heads);
  tape.run(WeightedMean{x.value, heads, y.value});
  tape.record(y, [=](Tape& t) {
    t.run(WeightedMeanBackward{x.value, y.value, heads, t.gradient(y), t.overwrite(x)});
  });
  return y;
}

Variable feature_map(Tape& tape, const Variable& x, const Parameter& weight, int64_t heads) {
  Variable y = tape.variable(x.value.rows, heads * 2 * weight.value.cols);
  tape.run(FeatureMap{x.value, weight.value, heads, y.value});
  tape.record(y, [=, w = weight.value, dw = tape.gradient_of(weight)](Tape& t) {
    t.run(FeatureMapBackward{x.value, w, y.value, heads, t.gradient(y), t.contribute(x), dw});
  });
  return y;
}

Variable add(Tape& tape, const Variable& a, const Variable& b) {
  Variable y = tape.variable(a.value.rows, a.value.cols);
  tape.run(Add{a.value, b.value, y.value});
  tape.record(y, [=](Tape& t) {
    const Gradient da = t.contribute(a);
    const Tensor dy = t.gradient(y);
    if (da) t.run(Add{dy, da.add ? da.to : Tensor{}, da.to});
    t.pass(y, b);
  });
  return y;
}

Variable gate(Tape& tape, const Variable& x, const Variable& gate, GateKind kind) {
  Variable y = tape.variable(x.value.rows, x.value.cols);
  tape.run(Gate{x.value, gate.value, y.value, kind});
  tape.record(y, [=](Tape& t) {
    t.run(GateBackward{x.value, gate.value, t.gradient(y), kind, t.contribute(x), t.contribute(gate)});
  });
  return y;
}

void linear_cross_entropy(Tape& tape, const Variable& x, const Parameter& weight, const Tensor& targets,
                          const Tensor& losses, double loss_scale, const TeacherLogits& teacher) {
  LinearCrossEntropy op{x.value, weight.value, weight.packed, targets, losses, loss_scale, {}, {}, teacher};
  Variable dx;
  if (tape.recording()) {
    dx.value = tape.memory().tensor(x.value.rows, x.value.cols, tape.dtype());
    op.dx = dx.value;
    op.dweight = tape.gradient_of(weight);
  }
  tape.run(op);
  tape.record(Variable{}, [=, gradient = dx.value](Tape& t) {
    const Gradient to = t.contribute(x);
    t.run(Add{gradient, to.add ? to.to : Tensor{}, to.to});
  });
}

void squared_error(Tape& tape, const Variable& x, const Tensor& target, const Tensor& losses, double scale,
                   double loss_scale) {
  SquaredError op{x.value, target, losses, scale, loss_scale, {}};
  if (tape.recording()) op.dx = tape.memory().tensor(x.value.rows, x.value.cols, tape.dtype());
  tape.run(op);
  tape.record(Variable{}, [=, gradient = op.dx](Tape& t) {
    const Gradient to = t.contribute(x);
    if (to) t.run(Add{gradient, to.add ? to.to : Tensor{}, to.to});
  });
}

}  // namespace harmonic
