// Forward goes block by block, each number of a state a chain of fused multiply-adds over time, each read one
// over features: no bit depends on the split, the vector width or the other heads. A state at work has its
// rows padded with zeros to whole groups of 16 columns, unless the tokens are few.
#include "harmonic/ops/matrix_scan.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/matrix_scan_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/row_products-inl.h"
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// state [F, width] = a state + key value^T.
void MatrixUpdate(int64_t F, int64_t width, float gate, const float* key, const float* value, float* state) {
  const hn::CappedTag<float, 16> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto a = Sigmoid(d, hn::Set(d, -gate));
  const float kept = hn::GetLane(a);
  for (int64_t f = 0; f < F; ++f) {
    const auto k = hn::Set(d, key[f]);
    float* row = state + f * width;
    int64_t e = 0;
    for (; e + lanes <= width; e += lanes)
      hn::StoreU(hn::MulAdd(k, hn::LoadU(d, value + e), hn::Mul(a, hn::LoadU(d, row + e))), d, row + e);
    for (; e < width; ++e) row[e] = std::fma(key[f], value[e], kept * row[e]);
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

HWY_EXPORT(MatrixUpdate);
HWY_EXPORT(MultiplyRows);
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
  float* value = worker.memory.zeros(1, width, DType::f32).as<float>();
  value[D] = 1;
  const int64_t at_once = group * std::min(op.shape.stride, std::max<int64_t>(1, head.tokens()));
  RowProduct* reads = worker.memory.allocate_array<RowProduct>(at_once);
  float* y = worker.memory.allocate_array<float>(at_once * width);
  int64_t done = 0;
  for (int64_t t = 0; t < head.tokens();) {
    for (; done < head.read(t); ++done) {
      if (op.borders && done % kMatrixTile == 0)
        store(head.state(op.borders, head.tile + done / kMatrixTile));
      std::copy_n(head.value(done), D, value);
      HWY_DYNAMIC_DISPATCH(MatrixUpdate)
      (F, width, op.g.row<float>(op.blocks.begin(head.b) + done)[head.head], head.key(done), value, state);
    }
    // The tokens up to `end` read the same state.
    const int64_t end = std::max(t + 1, head.first_reader(done + 1));
    const int64_t count = (end - t) * group, row = op.segments.begin(head.b) + t;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t h = head.head * group + i % group;
      reads[i] = {op.q.row<float>(row + i / group) + h * F, y + i * width, gain[h]};
    }
    HWY_DYNAMIC_DISPATCH(MultiplyRows)(F, width, width, state, count, reads);
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(reads[i].y, E, op.y.row<float>(row + i / group) + (head.head * group + i % group) * E);
    t = end;
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
    for (int64_t h = head_.head * head_.group(); h < (head_.head + 1) * head_.group(); ++h) queries_of(h);
    keys_and_values(dstate);
    gates();
  }

 private:
  static constexpr int64_t kSide = kMatrixTile + 1;

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
    float* g = numbers(1, kSide);
    for (int64_t s = 1; s <= n_; ++s) {
      std::copy_n(head_.value(first_ + s - 1), D_, values_ + (s - 1) * E_);
      values_[(s - 1) * E_ + D_] = 1;
      g[s] = op_.g.row<float>(op_.blocks.begin(head_.b) + first_ + s - 1)[head_.head];
    }
    HWY_DYNAMIC_DISPATCH(MatrixGates)(kSide, g, a_, rise_);
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

  void queries_of(int64_t h) {
    if (count_ == 0) return;
    const ArenaScope scope(worker_.memory);
    const int64_t row = op_.segments.begin(head_.b) + begin_;
    const float* q = op_.q.row<float>(row) + h * F_;
    float* dq = op_.dq.row<float>(row) + h * F_;
    float* dy = numbers(count_, E_);
    for (int64_t i = 0; i < count_; ++i)
      HWY_DYNAMIC_DISPATCH(MatrixScale)(E_, gain_[h], op_.dy.row<float>(row + i) + h * E_, dy + i * E_);
    float* weights = numbers(count_, std::max<int64_t>(1, n_));   // q k
    float* dweights = numbers(count_, std::max<int64_t>(1, n_));  // dy v
    float* from_before = numbers(count_, F_);                     // S dy, S the state before the tile
    float* decayed = numbers(count_, F_);
    worker_.multiply(count_, n_, F_, rows_view(q, op_.q.stride), keys().transposed(), weights, n_);
    worker_.multiply(count_, n_, E_, rows_view(dy, E_), rows_view(values_, E_).transposed(), dweights, n_);
    worker_.multiply(count_, F_, E_, rows_view(dy, E_), rows_view(before_, E_).transposed(), from_before, F_);
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t m = read(i);
      HWY_DYNAMIC_DISPATCH(MatrixFlow)(n_, &kept(m, 1), weights + i * n_, dweights + i * n_, &flow(m, 1));
      const float p = kept(m, 0);
      const float* query = q + i * op_.q.stride;
      flow(m, 0) += p * HWY_DYNAMIC_DISPATCH(MatrixDot)(F_, query, from_before + i * F_);
      HWY_DYNAMIC_DISPATCH(MatrixScale)(F_, p, query, decayed + i * F_);
    }
    worker_.multiply(count_, F_, n_, rows_view(dweights, n_), keys(), dq, op_.dq.stride);
    for (int64_t i = 0; i < count_; ++i) HWY_DYNAMIC_DISPATCH(MatrixAdd)
    (F_, dq + i * op_.dq.stride, kept(read(i), 0), from_before + i * F_, dq + i * op_.dq.stride);
    worker_.multiply(n_, F_, count_, rows_view(dweights, n_).transposed(), rows_view(q, op_.q.stride), dkeys_,
                     F_, MatmulMode::accumulate);
    worker_.multiply(n_, E_, count_, rows_view(weights, n_).transposed(), rows_view(dy, E_), dvalues_, E_,
                     MatmulMode::accumulate);
    worker_.multiply(F_, E_, count_, rows_view(decayed, F_).transposed(), rows_view(dy, E_), dbefore_, E_,
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
