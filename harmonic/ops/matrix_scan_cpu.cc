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
#include "harmonic/ops/matrix_scan_heads.h"
#include "harmonic/ops/row_math.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(MatrixSteps);
HWY_EXPORT(MatrixGates);
HWY_EXPORT(MatrixGains);

// Of up to so many tokens the states are worked on where they lie.
constexpr int64_t kFewTokens = 8;

void forward(const MatrixHead<MatrixScan>& head, const float* gain, MatmulWorker& worker) {
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
    matrix_gates(op.g, op.blocks.begin(head.b) + closed, head.head, std::min(at_once, head.blocks() - closed),
                 kept, kept + at_once);
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
      row_math::scale(y + i * width, gain[h], op.y.row<float>(row + i / group) + h * E, E);
    }
  }
  if (!in_place) store(after);
}

}  // namespace

const float* matrix_gains(Context& context, const Tensor& log_gain) {
  float* gain = context.scratch.allocate_array<float>(log_gain.cols);
  HWY_DYNAMIC_DISPATCH(MatrixGains)(log_gain.cols, log_gain.as<float>(), gain);
  return gain;
}

void matrix_gates(const Tensor& g, int64_t row, int64_t head, int64_t count, float* a, float* rise) {
  for (int64_t j = 0; j < count; ++j) rise[j] = g.row<float>(row + j)[head];
  HWY_DYNAMIC_DISPATCH(MatrixGates)(count, rise, a, rise);
}

void run(Context& context, const MatrixScan& op) {
  const ArenaScope scope(context.scratch);
  const float* gain = matrix_gains(context, op.log_gain);
  for_each_matrix_head(context, op, [&](const MatrixHead<MatrixScan>& head, MatmulWorker& worker) {
    forward(head, gain, worker);
  });
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
