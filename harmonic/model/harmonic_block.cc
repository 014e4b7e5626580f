#include "harmonic/model/harmonic_block.h"

#include "harmonic/model/cell.h"

namespace harmonic {
namespace {

using Cells = std::vector<std::unique_ptr<Cell>>;

Cells make_cells(const std::string& kind, const ModelConfig& config, int64_t count, double tau,
                 const Builder& builder, const std::string& name) {
  Cells cells;
  for (int64_t n = 0; n < count; ++n)
    cells.push_back(make_cell(kind, config, tau, builder.within(fmt::format("{}.{}", name, n))));
  return cells;
}

// Of a slow level: with the matrices of the last `count` of the `before` cells named `shared` where they are
// shared.
Cells make_slow_cells(const ModelConfig& config, size_t number, const Builder& builder,
                      const std::string& name, const std::string& shared) {
  const HarmonicConfig& h = config.harmonic;
  const int64_t count = h.cells[number - 1], skipped = h.cells[0] - count;
  const std::string& kind = h.cell_of_level(static_cast<int64_t>(number) - 1);
  const double tau = h.taus[number - 1];
  if (!h.share_cells) return make_cells(kind, config, count, tau, builder, name);
  Cells cells;
  for (int64_t n = 0; n < count; ++n)
    cells.push_back(make_cell(
        kind, config, tau,
        builder.with_matrices_of(fmt::format("{}.{}", shared, skipped + n), fmt::format("{}.{}", name, n))));
  return cells;
}

Variable run_cells(const Cells& cells, Step& step, Variable v, const Segments& segments) {
  for (const auto& cell : cells) v = cell->forward(step, v, segments);
  return v;
}

// One slow level: what comes up from the level below, its cells, and what goes down to its readers.
class SlowLevel {
 public:
  // `number` is 2 or 3; `gain` is where the level's weight in the combination starts; `fast` names the cells
  // of level 1.
  SlowLevel(const ModelConfig& config, size_t number, double gain, const Builder& token_rate,
            const std::string& fast)
      : stride_(config.harmonic.strides[number - 1]),
        below_(config.harmonic.strides[number - 2]),
        predicts_(config.harmonic.prediction_error),
        start_(token_rate.vector(fmt::format("start.{}", number), config.d_model, Initial::zeros())),
        norm_(
            token_rate.vector(fmt::format("combine.{}.norm", number), config.d_model, Initial::constant(1))),
        weight_(token_rate.vector(fmt::format("combine.{}.weight", number), config.d_model,
                                  Initial::constant(gain))) {
    const int64_t channels = config.d_model;
    const Builder builder = token_rate.at(stride_);
    const std::string name = fmt::format("level{}", number);
    pool_ = builder.keep(name + ".pool", channels);
    if (predicts_) {
      predict_ = &builder.matrix(fmt::format("predict.{}", number), channels, channels, Initial::zeros());
      last_ = builder.keep(name + ".last", channels);
    }
    cells_ = make_slow_cells(config, number, builder, name, fast);
    if (config.harmonic.down_projection)
      down_ = &builder.matrix(fmt::format("down.{}", number), channels, channels);
    held_ = builder.keep(name + ".held", channels);
  }

  // The level's output at its own rate, from the output of the level below.
  Variable up(Step& step, const Variable& below) const {
    Tape& tape = step.tape();
    const Segments& rows = step.level(below_).blocks;
    const Segments& blocks = step.level(stride_).blocks;
    // Where nothing comes up, nothing changes.
    if (rows.rows() == 0 && step.has_copied_states()) return below;
    const Variable p = causal_pool(tape, below, rows, step.phases(below_, stride_), stride_ / below_, blocks,
                                   step.slots(pool_));
    // Where no block has closed, the rest has no rows.
    if (blocks.rows() == 0 && step.has_copied_states()) return p;
    Variable input = p;
    if (predicts_) {
      const Variable previous = shift(tape, p, blocks, step.slots(last_));
      input = linear(tape, previous, *predict_, {.base = &p, .negate = true});
    }
    return run_cells(cells_, step, input, blocks);
  }

  // base + weight * rms_norm(d) at token rate, where d is `out`, projected or not, delayed until its block
  // has closed. Norm and weight come before the upsampling: they act on single rows, so that the result is
  // the same for less work.
  Variable down(Step& step, const Variable& out, const Variable& base) const {
    Tape& tape = step.tape();
    const LevelRows& level = step.level(stride_);
    const Variable d = down_ ? linear(tape, out, *down_) : out;
    if (!tape.recording() && step.segments().longest() <= 1)
      return read_held(tape, d, step.segments(), level.blocks, level.fresh, start_, norm_, weight_,
                       step.slots(held_), base);
    const Variable held = hold_blocks(tape, d, level.blocks, level.fresh, start_, step.slots(held_));
    const Variable normed = rms_norm(tape, held, norm_, &weight_);
    return causal_upsample(tape, normed, step.segments(), level.blocks, level.phases, stride_, base);
  }

 private:
  int64_t stride_, below_;
  bool predicts_;
  Parameter &start_, &norm_, &weight_;
  StateField pool_, last_, held_;
  Parameter* predict_ = nullptr;
  Parameter* down_ = nullptr;
  Cells cells_;
};

std::vector<SlowLevel> make_slow_levels(const ModelConfig& config, double gain, const Builder& builder,
                                        const std::string& fast) {
  std::vector<SlowLevel> levels;
  for (size_t number = 2; number <= config.harmonic.strides.size(); ++number)
    levels.emplace_back(config, number, gain, builder, fast);
  return levels;
}

// The paper's: mix = sum over levels of w_l * rms_norm(d_l), optionally gated by the fast level.
class Levels : public Mixer {
 public:
  Levels(const ModelConfig& config, const Builder& builder)
      : fast_(make_cells(config.harmonic.cell_of_level(0), config, config.harmonic.cells[0],
                         config.harmonic.taus[0], builder, "level1")),
        norm_(builder.vector("combine.1.norm", config.d_model, Initial::constant(1))),
        weight_(builder.vector("combine.1.weight", config.d_model, Initial::constant(1))),
        slow_(make_slow_levels(config, 0.1, builder, "level1")) {
    if (config.harmonic.combine == "gated")
      gate_ = &builder.matrix("combine.gate", config.d_model, config.d_model);
  }

  Variable forward(Step& step, const Variable& x) const override {
    Tape& tape = step.tape();
    const Variable fast = run_cells(fast_, step, x, step.segments());
    Variable mix = rms_norm(tape, fast, norm_, &weight_);
    Variable below = fast;
    for (const SlowLevel& level : slow_) {
      below = level.up(step, below);
      mix = level.down(step, below, mix);
    }
    return gate_ ? gate(tape, mix, linear(tape, fast, *gate_), GateKind::sigmoid) : mix;
  }

 private:
  Cells fast_;
  Parameter &norm_, &weight_;
  std::vector<SlowLevel> slow_;
  Parameter* gate_ = nullptr;
};

// Cells at token rate before the slow levels and more after them; the slow context joins the stream between.
class Sandwich : public Mixer {
 public:
  Sandwich(const ModelConfig& config, const Builder& builder)
      : before_(make_cells(config.harmonic.cell_of_level(0), config, config.harmonic.cells[0],
                           config.harmonic.taus[0], builder, "before")),
        slow_(make_slow_levels(config, 0.1, builder, "before")),
        after_(make_cells(config.harmonic.cell_of_level(0), config, config.harmonic.cells.back(),
                          config.harmonic.taus[0], builder, "after")) {
    if (config.harmonic.combine == "gated")
      gate_ = &builder.matrix("combine.gate", config.d_model, config.d_model);
  }

  Variable forward(Step& step, const Variable& x) const override {
    Tape& tape = step.tape();
    const Variable early = run_cells(before_, step, x, step.segments());
    Variable stream = early, below = early;
    for (const SlowLevel& level : slow_) {
      below = level.up(step, below);
      stream = level.down(step, below, stream);
    }
    if (gate_) stream = gate(tape, stream, linear(tape, early, *gate_), GateKind::sigmoid);
    return run_cells(after_, step, stream, step.segments());
  }

 private:
  Cells before_;
  std::vector<SlowLevel> slow_;
  Cells after_;
  Parameter* gate_ = nullptr;
};

// The control: the same cells in a plain residual stack at token rate. taus are in tokens here.
class Flat : public Mixer {
 public:
  Flat(const ModelConfig& config, const Builder& builder) {
    const HarmonicConfig& h = config.harmonic;
    for (int64_t n = 0; n < h.flat_cells(); ++n) {
      const int64_t level = h.flat_level(n);
      cells_.push_back(make_cell(h.cell_of_level(level), config, h.taus.at(static_cast<size_t>(level)),
                                 builder.within(fmt::format("level1.{}", n))));
    }
  }

  Variable forward(Step& step, const Variable& x) const override {
    return run_cells(cells_, step, x, step.segments());
  }

 private:
  Cells cells_;
};

}  // namespace

std::unique_ptr<Mixer> make_harmonic_block(const ModelConfig& config, const Builder& builder) {
  const std::string& layout = config.harmonic.layout;
  if (layout == "levels") return std::make_unique<Levels>(config, builder);
  if (layout == "sandwich") return std::make_unique<Sandwich>(config, builder);
  if (layout == "flat") return std::make_unique<Flat>(config, builder);
  fail_usage("model.harmonic.layout: \"{}\" is not a layout; expected \"levels\", \"sandwich\" or \"flat\"",
             layout);
}

}  // namespace harmonic
