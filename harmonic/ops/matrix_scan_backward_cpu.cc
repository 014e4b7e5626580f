// Backward: within a tile all is matrix products, and what goes from tile to tile is the gradient of the
// state.
#include "harmonic/ops/matrix_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/matrix_scan_backward_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

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

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/matrix_scan_heads.h"
#include "harmonic/ops/row_math.h"

namespace harmonic::cpu {
namespace {

HWY_EXPORT(MatrixFlow);

// One tile, backward: n blocks from block `first` on, and the tokens [begin, end) that read the states after
// them (and, in the first tile, before them). Index 0 stands for the state before the tile, index s for block
// s of it, counted from 1.
class TileBackward {
 public:
  TileBackward(const MatrixHead<MatrixScanBackward>& head, int64_t tile, const float* gain,
               MatmulWorker& worker)
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
    matrix_gates(op_.g, op_.blocks.begin(head_.b) + first_, head_.head, n_, a_ + 1, rise_ + 1);
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
      row_math::scale(op_.dy.row<float>(token_of(r)) + h * E_, gain_[h], dy + r * E_, E_);
    }
    worker_.multiply(rows, n_, F_, rows_view(q, F_), keys().transposed(), weights, n_);
    worker_.multiply(rows, n_, E_, rows_view(dy, E_), rows_view(values_, E_).transposed(), dweights, n_);
    worker_.multiply(rows, F_, E_, rows_view(dy, E_), rows_view(before_, E_).transposed(), from_before, F_);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t m = read_of(r);
      HWY_DYNAMIC_DISPATCH(MatrixFlow)(n_, &kept(m, 1), weights + r * n_, dweights + r * n_, &flow(m, 1));
      flow(m, 0) += kept(m, 0) * row_math::dot(q + r * F_, from_before + r * F_, F_);
    }
    worker_.multiply(rows, F_, n_, rows_view(dweights, n_), keys(), dq, F_);
    worker_.multiply(n_, F_, rows, rows_view(dweights, n_).transposed(), rows_view(q, F_), dkeys_, F_,
                     MatmulMode::accumulate);
    worker_.multiply(n_, E_, rows, rows_view(weights, n_).transposed(), rows_view(dy, E_), dvalues_, E_,
                     MatmulMode::accumulate);
    for (int64_t r = 0; r < rows; ++r) {
      const float p = kept(read_of(r), 0);
      row_math::add_scaled(dq + r * F_, p, from_before + r * F_,
                           op_.dq.row<float>(token_of(r)) + head_of(r) * F_, F_);
      row_math::scale(dy + r * E_, p, dy + r * E_, E_);
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
      flow(n_, s) += p * row_math::dot(key, later, F_);
      row_math::add_scaled(dkeys_ + (s - 1) * F_, p, later, dk, F_);
      row_math::add_scaled(dvalues_ + (s - 1) * E_, p, dvalues + (s - 1) * E_, dv, D_);
    }
    const float p = kept(n_, 0);
    flow(n_, 0) += p * row_math::dot(before_, dstate, F_ * E_);
    row_math::add_scaled(dbefore_, p, dstate, dstate, F_ * E_);
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

  const MatrixHead<MatrixScanBackward>& head_;
  const MatrixScanBackward& op_;
  const float* gain_;
  MatmulWorker& worker_;
  int64_t F_, D_, E_, first_, n_, begin_, count_;
  const float* before_;
  float *values_, *dkeys_, *dvalues_, *dbefore_, *kept_, *flow_, *a_, *rise_;
};

void backward(const MatrixHead<MatrixScanBackward>& head, const float* gain, MatmulWorker& worker) {
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

void run(Context& context, const MatrixScanBackward& op) {
  const ArenaScope scope(context.scratch);
  const float* gain = matrix_gains(context, op.log_gain);
  for_each_matrix_head(context, op, [&](const MatrixHead<MatrixScanBackward>& head, MatmulWorker& worker) {
    backward(head, gain, worker);
  });
  // Sums over tokens by heads, in the order of tokens.
  const int64_t E = op.shape.values + 1;
  for (int64_t h = 0; h < op.shape.heads; ++h) {
    double sum = 0;
    for (int64_t r = 0; r < op.dy.rows; ++r)
      sum += row_math::dot(op.dy.row<float>(r) + h * E, op.y.row<float>(r) + h * E, E);
    op.dlog_gain.as<float>()[h] += static_cast<float>(sum);
  }
}

}  // namespace harmonic::cpu
#endif  // HWY_ONCE
