// Forward goes block by block, each number of a state a chain of fused multiply-adds over time, each read one
// over features: no bit depends on the split, the vector width or the other heads. A state at work has its
// rows padded with zeros to whole groups of 16 columns, unless the tokens are few.
#include "harmonic/ops/matrix_scan.h"

#include <algorithm>
#include <cmath>

#include "harmonic/ops/simd_targets.h"

#ifndef HARMONIC_OPS_MATRIX_SCAN_CPU_ONCE_
#define HARMONIC_OPS_MATRIX_SCAN_CPU_ONCE_
namespace harmonic {

// Some rows of a state, and what some tokens ask of it and have for it, are in the first cache together.
constexpr int64_t kRowsAtOnce = 32;
constexpr int64_t kTokensAtOnce = 16;

// y [width] += query [F] state.
struct MatrixRead {
  const float* query;
  float* y;
};

// What a block writes, if it does (key), and the reads of the state after it, at least one.
struct MatrixStep {
  const float* key = nullptr;    // [F]
  const float* value = nullptr;  // [width]
  float kept = 1;                // a
  const MatrixRead* reads = nullptr;
  int64_t read_count = 0;
};

}  // namespace harmonic
#endif

//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/matrix_scan_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// Rows of a state, `width` numbers each, from row `first` on, through one step of the scan: where it has a
// key, they are written,
//   state = a state + key value^T,
// and then read. kCount reads at once, and kGroups groups of 16 columns from `column` on.
template <bool kWrites, int64_t kCount, int64_t kGroups>
HWY_INLINE void StepGroups(int64_t rows, int64_t width, int64_t column, const MatrixStep& step,
                           const MatrixRead* reads, int64_t first, float* state) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  constexpr int64_t kVectors = kGroups * 16 / kLanes;
  const V a = hn::Set(d, step.kept);
  const float* key = kWrites ? step.key + first : nullptr;
  const float* value = kWrites ? step.value + column : nullptr;
  const float* query[kCount];
  V sums[kCount][kVectors];
#pragma GCC unroll 3
  for (int64_t i = 0; i < kCount; ++i) {
    query[i] = reads[i].query + first;
#pragma GCC unroll 5
    for (int64_t v = 0; v < kVectors; ++v) sums[i][v] = hn::LoadU(d, reads[i].y + column + v * kLanes);
  }
  for (int64_t f = 0; f < rows; ++f) {
    float* at = state + f * width + column;
    V row[kVectors];
#pragma GCC unroll 5
    for (int64_t v = 0; v < kVectors; ++v) row[v] = hn::LoadU(d, at + v * kLanes);
    if constexpr (kWrites) {
      const V k = hn::Set(d, key[f]);
#pragma GCC unroll 5
      for (int64_t v = 0; v < kVectors; ++v) {
        row[v] = hn::MulAdd(k, hn::LoadU(d, value + v * kLanes), hn::Mul(a, row[v]));
        hn::StoreU(row[v], d, at + v * kLanes);
      }
    }
#pragma GCC unroll 3
    for (int64_t i = 0; i < kCount; ++i) {
      const V q = hn::Set(d, query[i][f]);
#pragma GCC unroll 5
      for (int64_t v = 0; v < kVectors; ++v) sums[i][v] = hn::MulAdd(q, row[v], sums[i][v]);
    }
  }
#pragma GCC unroll 3
  for (int64_t i = 0; i < kCount; ++i)
#pragma GCC unroll 5
    for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(sums[i][v], d, reads[i].y + column + v * kLanes);
}

// The same of one column.
template <bool kWrites, int64_t kCount>
HWY_INLINE void StepColumn(int64_t rows, int64_t width, int64_t column, const MatrixStep& step,
                           const MatrixRead* reads, int64_t first, float* state) {
  float sums[kCount];
  for (int64_t i = 0; i < kCount; ++i) sums[i] = reads[i].y[column];
  for (int64_t f = 0; f < rows; ++f) {
    float number = state[f * width + column];
    if constexpr (kWrites) {
      number = std::fma(step.key[first + f], step.value[column], step.kept * number);
      state[f * width + column] = number;
    }
    for (int64_t i = 0; i < kCount; ++i) sums[i] = std::fma(reads[i].query[first + f], number, sums[i]);
  }
  for (int64_t i = 0; i < kCount; ++i) reads[i].y[column] = sums[i];
}

constexpr int64_t kLanesOfState = hn::MaxLanes(hn::CappedTag<float, 16>());
// As many as the registers hold.
constexpr int64_t kReadsAtOnce = 3, kReadsWhileWriting = kLanesOfState == 16 ? 3 : 2;

template <bool kWrites, int64_t kCount>
void StepRows(int64_t rows, int64_t width, const MatrixStep& step, const MatrixRead* reads, int64_t first,
              float* state) {
  constexpr int64_t kGroups = kLanesOfState == 16 ? 5 : kLanesOfState == 8 ? 2 : 1;
  int64_t column = 0;
  for (; column + kGroups * 16 <= width; column += kGroups * 16)
    StepGroups<kWrites, kCount, kGroups>(rows, width, column, step, reads, first, state);
  if constexpr (kGroups == 5) {
    if (column + 64 <= width) {
      StepGroups<kWrites, kCount, 4>(rows, width, column, step, reads, first, state);
      column += 64;
    }
  }
  for (; column + 16 <= width; column += 16)
    StepGroups<kWrites, kCount, 1>(rows, width, column, step, reads, first, state);
  for (; column < width; ++column)
    StepColumn<kWrites, kCount>(rows, width, column, step, reads, first, state);
}

void OneStep(int64_t rows, int64_t width, const MatrixStep& step, int64_t first, float* state) {
  const MatrixRead* reads = step.reads;
  int64_t left = step.read_count;
  if (step.key) {  // the first reads while it writes
    const int64_t count = std::min(left, kReadsWhileWriting);
    if (count == 1) StepRows<true, 1>(rows, width, step, reads, first, state);
    if (count == 2) StepRows<true, 2>(rows, width, step, reads, first, state);
    if constexpr (kReadsWhileWriting == 3)
      if (count == 3) StepRows<true, 3>(rows, width, step, reads, first, state);
    reads += count;
    left -= count;
  }
  for (; left >= kReadsAtOnce; left -= kReadsAtOnce, reads += kReadsAtOnce)
    StepRows<false, kReadsAtOnce>(rows, width, step, reads, first, state);
  if (left == 2) StepRows<false, 2>(rows, width, step, reads, first, state);
  if (left == 1) StepRows<false, 1>(rows, width, step, reads, first, state);
}

// state [F, width] through `count` steps, some rows through all of them before the next: these stay in the
// cache. The sums over features are cut there, not reordered.
void MatrixSteps(int64_t F, int64_t width, int64_t count, const MatrixStep* steps, float* state) {
  for (int64_t f = 0; f < F; f += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, F - f);
    for (int64_t s = 0; s < count; ++s) OneStep(rows, width, steps[s], f, state + f * width);
  }
}

float MatrixDot(int64_t count, const float* a, const float* b) {
  return DotProduct(hn::CappedTag<float, 16>(), count, a, b);
}

// y = a z.
void MatrixScale(int64_t count, float a, const float* z, float* y) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(y), In(z), [d, a](auto zv, auto& yv) HWY_ATTR { yv = hn::Mul(hn::Set(d, a), zv); });
}

// y = x + a z; y may be x or z.
void MatrixAdd(int64_t count, const float* x, float a, const float* z, float* y) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(y), In(x, z),
          [d, a](auto xv, auto zv, auto& yv) HWY_ATTR { yv = hn::MulAdd(hn::Set(d, a), zv, xv); });
}

// What is kept of each block on the way to one reader: its weights q k and gradients dy v come to be what is
// read, and their products with it go to the flow of its gates.
void MatrixFlow(int64_t count, const float* kept, float* weight, float* dweight, float* flow) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(flow, weight, dweight), In(kept, flow, weight, dweight),
          [](auto p, auto f, auto w, auto dw, auto& fv, auto& wv, auto& dwv) HWY_ATTR {
            wv = hn::Mul(p, w);
            dwv = hn::Mul(p, dw);
            fv = hn::MulAdd(wv, dw, f);
          });
}

// gates: a = sigmoid(-g) and its slope over it, sigmoid(g).
void MatrixGates(int64_t count, const float* g, float* a, float* rise) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(a, rise), In(g),
          [d](auto gv, auto& av, auto& rv) HWY_ATTR { Sigmoids(d, gv, rv, av); });
}

void MatrixGains(int64_t count, const float* log_gain, float* gain) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(gain), In(log_gain), [d](auto v, auto& out) HWY_ATTR { out = Exp(d, v); });
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>

#include "harmonic/ops/matmul_worker.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(MatrixSteps);
HWY_EXPORT(MatrixDot);
HWY_EXPORT(MatrixScale);
HWY_EXPORT(MatrixAdd);
HWY_EXPORT(MatrixFlow);
HWY_EXPORT(MatrixGates);
HWY_EXPORT(MatrixGains);

// One head of keys and values of one segment.
template <typename Op>
struct Head {
  const Op& op;
  int64_t b, head, tile;  // the segment's first row of borders

  int64_t F() const { return op.shape.features; }
  int64_t D() const { return op.shape.values; }
  int64_t E() const { return D() + 1; }
  int64_t group() const { return op.shape.heads / op.shape.kv_heads; }
  int64_t tokens() const { return op.segments.length(b); }
  int64_t blocks() const { return op.blocks.length(b); }
  // How many of the segment's blocks token t has behind it, and the first token that has `count` of them.
  int64_t read(int64_t t) const { return (op.phases[b] + t + 1) / op.shape.stride; }
  int64_t first_reader(int64_t count) const {
    return std::clamp<int64_t>(count * op.shape.stride - op.phases[b] - 1, 0, tokens());
  }
  float* state(const Tensor& states, int64_t row) const {
    return states.template row<float>(row) + head * F() * E();
  }
  const float* key(int64_t j) const { return op.k.template row<float>(op.blocks.begin(b) + j) + head * F(); }
  const float* value(int64_t j) const {
    return op.v.template row<float>(op.blocks.begin(b) + j) + head * D();
  }
};

template <typename Op, typename Body>
void for_each_head(Context& context, const Op& op, const Body& body) {
  const MatrixShape& s = op.shape;
  HARMONIC_ASSERT(s.heads % s.kv_heads == 0 && op.q.cols == s.heads * s.features);
  HARMONIC_ASSERT(op.k.cols == s.kv_heads * s.features && op.v.cols == s.kv_heads * s.values);
  HARMONIC_ASSERT(op.g.cols == s.kv_heads && op.segments.count == op.blocks.count);
  auto* first_tile = context.scratch.allocate_array<int64_t>(op.blocks.count + 1);
  first_tile[0] = 0;
  for (int64_t b = 0; b < op.blocks.count; ++b)
    first_tile[b + 1] = first_tile[b] + std::max<int64_t>(1, ceil_div(op.blocks.length(b), kMatrixTile));
  for_each_with_worker(context, op.blocks.count * s.kv_heads, op.q.size() * s.values,
                       [&](int64_t i, MatmulWorker& worker) {
                         const int64_t b = i / s.kv_heads;
                         body(Head<Op>{op, b, i % s.kv_heads, first_tile[b]}, worker);
                       });
}

const float* gains(Context& context, const Tensor& log_gain) {
  float* gain = context.scratch.allocate_array<float>(log_gain.cols);
  HWY_DYNAMIC_DISPATCH(MatrixGains)(log_gain.cols, log_gain.as<float>(), gain);
  return gain;
}

// Of up to so many tokens the states are worked on where they lie.
constexpr int64_t kFewTokens = 8;

// The factors a of a segment's blocks from `first` on, and sigmoid(g).
void gates_of(const auto& head, int64_t first, int64_t count, float* a, float* rise) {
  for (int64_t j = 0; j < count; ++j)
    rise[j] = head.op.g.template row<float>(head.op.blocks.begin(head.b) + first + j)[head.head];
  HWY_DYNAMIC_DISPATCH(MatrixGates)(count, rise, a, rise);
}

void forward(const Head<MatrixScan>& head, const float* gain, MatmulWorker& worker) {
  const MatrixScan& op = head.op;
  const int64_t F = head.F(), D = head.D(), E = head.E(), group = head.group();
  const bool in_place = head.tokens() <= kFewTokens && !op.borders;
  const int64_t width = in_place ? E : round_up(E, 16);  // of a row at work
  const float* before = head.state(op.state_in, head.b);
  float* after = head.state(op.state_out, head.b);
  float* state = in_place ? after : worker.memory.zeros(F, width, DType::f32).as<float>();
  if (!in_place) {
    for (int64_t f = 0; f < F; ++f) std::copy_n(before + f * E, E, state + f * width);
  } else if (after != before) {
    std::copy_n(before, F * E, after);
  }
  const auto store = [&](float* to) {
    for (int64_t f = 0; f < F; ++f) std::copy_n(state + f * width, E, to + f * E);
  };
  if (op.borders) store(head.state(op.borders, head.tile));

  const int64_t at_once = std::min(kTokensAtOnce, head.tokens());
  float* values = worker.memory.zeros(at_once, width, DType::f32).as<float>();
  float* y = worker.memory.allocate_array<float>(at_once * group * width);
  MatrixStep* steps = worker.memory.allocate_array<MatrixStep>(at_once);
  MatrixRead* reads = worker.memory.allocate_array<MatrixRead>(at_once * group);
  float* kept = worker.memory.allocate_array<float>(2 * at_once);
  int64_t done = 0;
  for (int64_t first = 0, t = 0; t < head.tokens(); first = t) {
    const int64_t closed = done;
    gates_of(head, closed, std::min(at_once, head.blocks() - closed), kept, kept + at_once);
    int64_t count = 0;
    while (t < std::min(first + at_once, head.tokens())) {
      MatrixStep step;
      if (done < head.read(t)) {
        if (op.borders && done % kMatrixTile == 0) {
          if (count > 0) break;
          store(head.state(op.borders, head.tile + done / kMatrixTile));
        }
        float* value = values + count * width;
        std::copy_n(head.value(done), D, value);
        value[D] = 1;
        step = {.key = head.key(done), .value = value, .kept = kept[done - closed]};
        ++done;
      }
      // The tokens up to `end` read the same state.
      const int64_t end =
          std::min({std::max(t + 1, head.first_reader(done + 1)), first + at_once, head.tokens()});
      step.reads = reads + (t - first) * group;
      step.read_count = (end - t) * group;
      steps[count++] = step;
      t = end;
    }
    const int64_t row = op.segments.begin(head.b) + first, all = (t - first) * group;
    for (int64_t i = 0; i < all; ++i)
      reads[i] = {op.q.row<float>(row + i / group) + (head.head * group + i % group) * F, y + i * width};
    std::fill_n(y, all * width, 0.0f);
    HWY_DYNAMIC_DISPATCH(MatrixSteps)(F, width, count, steps, state);
    for (int64_t i = 0; i < all; ++i) {
      const int64_t h = head.head * group + i % group;
      HWY_DYNAMIC_DISPATCH(MatrixScale)(E, gain[h], y + i * width, op.y.row<float>(row + i / group) + h * E);
    }
  }
  if (!in_place) store(after);
}

// One tile, backward: n blocks from block `first` on, and the tokens [begin, end) that read the states after
// them (and, in the first tile, before them). Index 0 stands for the state before the tile, index s for block
// s of it, counted from 1.
class TileBackward {
 public:
  TileBackward(const Head<MatrixScanBackward>& head, int64_t tile, const float* gain, MatmulWorker& worker)
      : head_(head),
        op_(head.op),
        gain_(gain),
        worker_(worker),
        F_(head.F()),
        D_(head.D()),
        E_(head.E()),
        first_(tile * kMatrixTile),
        n_(std::min(kMatrixTile, head.blocks() - first_)),
        begin_(tile == 0 ? 0 : head.first_reader(first_ + 1)),
        count_((first_ + n_ == head.blocks() ? head.tokens() : head.first_reader(first_ + n_ + 1)) - begin_),
        before_(head.state(op_.borders, head.tile + tile)) {}

  // `dstate` [F, E], the gradient of the state after the tile, becomes that of the state before it.
  void run(float* dstate) {
    prepare();
    const int64_t at_once = std::max<int64_t>(1, kReadersAtOnce / head_.group());
    for (int64_t i = 0; i < count_; i += at_once) queries(i, std::min(at_once, count_ - i));
    keys_and_values(dstate);
    gates();
  }

 private:
  static constexpr int64_t kSide = kMatrixTile + 1;
  // Heads of queries of some tokens: enough to pack keys and states for, and few enough for the second cache.
  static constexpr int64_t kReadersAtOnce = 128;

  float* numbers(int64_t rows, int64_t cols) {
    return worker_.memory.zeros(rows, cols, DType::f32).as<float>();
  }
  MatrixView keys() const { return rows_view(head_.key(first_), op_.k.stride); }

  void prepare() {
    values_ = numbers(n_, E_);
    dkeys_ = numbers(n_, F_);
    dvalues_ = numbers(n_, E_);
    dbefore_ = numbers(F_, E_);
    kept_ = numbers(kSide, kSide);
    flow_ = numbers(kSide, kSide);
    a_ = numbers(1, kSide);
    rise_ = numbers(1, kSide);
    for (int64_t s = 1; s <= n_; ++s) {
      std::copy_n(head_.value(first_ + s - 1), D_, values_ + (s - 1) * E_);
      values_[(s - 1) * E_ + D_] = 1;
    }
    gates_of(head_, first_, n_, a_ + 1, rise_ + 1);
    // kept(m, s): what is left after block m of what block s (or the state before) put there.
    for (int64_t m = 0; m <= n_; ++m) {
      kept(m, m) = 1;
      for (int64_t s = 0; s < m; ++s) kept(m, s) = kept(m - 1, s) * a_[m];
    }
  }

  float& kept(int64_t m, int64_t s) { return kept_[m * kSide + s]; }
  // The gradient of the logarithm of kept(m, s).
  float& flow(int64_t m, int64_t s) { return flow_[m * kSide + s]; }
  int64_t read(int64_t i) const { return head_.read(begin_ + i) - first_; }

  // Of `count` of the tile's tokens from the i-th on, all heads of the group.
  void queries(int64_t i, int64_t count) {
    const ArenaScope scope(worker_.memory);
    const int64_t group = head_.group(), rows = count * group;
    const auto array = [&](int64_t cols) { return worker_.memory.allocate_array<float>(rows * cols); };
    const auto token_of = [&](int64_t r) { return op_.segments.begin(head_.b) + begin_ + i + r / group; };
    const auto head_of = [&](int64_t r) { return head_.head * group + r % group; };
    const auto read_of = [&](int64_t r) { return read(i + r / group); };
    float *q = array(F_), *dy = array(E_), *dq = array(F_);
    float *weights = array(n_), *dweights = array(n_);  // q k, dy v
    float* from_before = array(F_);                     // S dy, S the state before the tile
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t h = head_of(r);
      std::copy_n(op_.q.row<float>(token_of(r)) + h * F_, F_, q + r * F_);
      HWY_DYNAMIC_DISPATCH(MatrixScale)(E_, gain_[h], op_.dy.row<float>(token_of(r)) + h * E_, dy + r * E_);
    }
    worker_.multiply(rows, n_, F_, rows_view(q, F_), keys().transposed(), weights, n_);
    worker_.multiply(rows, n_, E_, rows_view(dy, E_), rows_view(values_, E_).transposed(), dweights, n_);
    worker_.multiply(rows, F_, E_, rows_view(dy, E_), rows_view(before_, E_).transposed(), from_before, F_);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t m = read_of(r);
      HWY_DYNAMIC_DISPATCH(MatrixFlow)(n_, &kept(m, 1), weights + r * n_, dweights + r * n_, &flow(m, 1));
      flow(m, 0) += kept(m, 0) * HWY_DYNAMIC_DISPATCH(MatrixDot)(F_, q + r * F_, from_before + r * F_);
    }
    worker_.multiply(rows, F_, n_, rows_view(dweights, n_), keys(), dq, F_);
    worker_.multiply(n_, F_, rows, rows_view(dweights, n_).transposed(), rows_view(q, F_), dkeys_, F_,
                     MatmulMode::accumulate);
    worker_.multiply(n_, E_, rows, rows_view(weights, n_).transposed(), rows_view(dy, E_), dvalues_, E_,
                     MatmulMode::accumulate);
    for (int64_t r = 0; r < rows; ++r) {
      const float p = kept(read_of(r), 0);
      HWY_DYNAMIC_DISPATCH(MatrixAdd)
      (F_, dq + r * F_, p, from_before + r * F_, op_.dq.row<float>(token_of(r)) + head_of(r) * F_);
      HWY_DYNAMIC_DISPATCH(MatrixScale)(E_, p, dy + r * E_, dy + r * E_);
    }
    worker_.multiply(F_, E_, rows, rows_view(q, F_).transposed(), rows_view(dy, E_), dbefore_, E_,
                     MatmulMode::accumulate);
  }

  // What comes from later tiles, through the state after this one.
  void keys_and_values(float* dstate) {
    float* dkeys = numbers(n_, F_);
    float* dvalues = numbers(n_, E_);
    worker_.multiply(n_, F_, E_, rows_view(values_, E_), rows_view(dstate, E_).transposed(), dkeys, F_);
    worker_.multiply(n_, E_, F_, keys(), rows_view(dstate, E_), dvalues, E_);
    for (int64_t s = 1; s <= n_; ++s) {
      const float p = kept(n_, s);
      const float* key = head_.key(first_ + s - 1);
      const int64_t row = op_.blocks.begin(head_.b) + first_ + s - 1;
      float* dk = op_.dk.row<float>(row) + head_.head * F_;
      float* dv = op_.dv.row<float>(row) + head_.head * D_;
      const float* later = dkeys + (s - 1) * F_;
      flow(n_, s) += p * HWY_DYNAMIC_DISPATCH(MatrixDot)(F_, key, later);
      HWY_DYNAMIC_DISPATCH(MatrixAdd)(F_, dkeys_ + (s - 1) * F_, p, later, dk);
      HWY_DYNAMIC_DISPATCH(MatrixAdd)(D_, dvalues_ + (s - 1) * E_, p, dvalues + (s - 1) * E_, dv);
    }
    const float p = kept(n_, 0);
    flow(n_, 0) += p * HWY_DYNAMIC_DISPATCH(MatrixDot)(F_ * E_, before_, dstate);
    HWY_DYNAMIC_DISPATCH(MatrixAdd)(F_ * E_, dbefore_, p, dstate, dstate);
  }

  // Block u's gate is a factor of every kept(m, s) with s < u <= m.
  void gates() {
    float* before = numbers(1, kSide);  // of each m, the sum over s < u
    for (int64_t u = 1; u <= n_; ++u) {
      float sum = 0;
      for (int64_t m = u; m <= n_; ++m) {
        before[m] += flow(m, u - 1);
        sum += before[m];
      }
      op_.dg.row<float>(op_.blocks.begin(head_.b) + first_ + u - 1)[head_.head] = -rise_[u] * sum;
    }
  }

  const Head<MatrixScanBackward>& head_;
  const MatrixScanBackward& op_;
  const float* gain_;
  MatmulWorker& worker_;
  int64_t F_, D_, E_, first_, n_, begin_, count_;
  const float* before_;
  float *values_, *dkeys_, *dvalues_, *dbefore_, *kept_, *flow_, *a_, *rise_;
};

void backward(const Head<MatrixScanBackward>& head, const float* gain, MatmulWorker& worker) {
  const MatrixScanBackward& op = head.op;
  const int64_t size = head.F() * head.E();
  float* dstate = worker.memory.zeros(head.F(), head.E(), DType::f32).as<float>();
  if (op.dstate_out) std::copy_n(head.state(op.dstate_out, head.b), size, dstate);
  for (int64_t tile = std::max<int64_t>(1, ceil_div(head.blocks(), kMatrixTile)); tile-- > 0;) {
    const ArenaScope scope(worker.memory);
    TileBackward(head, tile, gain, worker).run(dstate);
  }
  if (op.dstate_in) std::copy_n(dstate, size, head.state(op.dstate_in, head.b));
}

}  // namespace

void run(Context& context, const MatrixScan& op) {
  const ArenaScope scope(context.scratch);
  const float* gain = gains(context, op.log_gain);
  for_each_head(context, op,
                [&](const Head<MatrixScan>& head, MatmulWorker& worker) { forward(head, gain, worker); });
}

void run(Context& context, const MatrixScanBackward& op) {
  const ArenaScope scope(context.scratch);
  const float* gain = gains(context, op.log_gain);
  for_each_head(context, op, [&](const Head<MatrixScanBackward>& head, MatmulWorker& worker) {
    backward(head, gain, worker);
  });
  // Sums over tokens by heads, in the order of tokens.
  const int64_t E = op.shape.values + 1;
  for (int64_t h = 0; h < op.shape.heads; ++h) {
    double sum = 0;
    for (int64_t r = 0; r < op.dy.rows; ++r)
      sum += HWY_DYNAMIC_DISPATCH(MatrixDot)(E, op.dy.row<float>(r) + h * E, op.y.row<float>(r) + h * E);
    op.dlog_gain.as<float>()[h] += static_cast<float>(sum);
  }
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
