#include "harmonic/ops/linear_cross_entropy.h"

#include "harmonic/ops/packed_weight_cuda.h"

namespace harmonic::cuda {
namespace {

// Rows whose logits are held at once, by the vocabulary and their size alone, so that a row's sums have one
// order whatever the memory.
int64_t rows_at_once(int64_t vocabulary, DType dtype) {
  constexpr int64_t kBytes = 400 << 20, kGrain = 64;
  return std::max(kGrain, kBytes / size_of(dtype) / vocabulary / kGrain * kGrain);
}

// Bytes of a row of logits up to which its block keeps it in shared memory, so that the card's is read once.
constexpr int64_t kRoomForRow = 110 << 10;  // of two blocks at a time on a multiprocessor

// The largest of a row of logits, and the log of the sum of their exponentials, in powers of two: e^x =
// 2^(x log2(e)). `fetch(p)` gives pack p, minus infinity beyond the vocabulary.
struct LogSum {
  float most, log_sum;
  __device__ float shift() const { return most + log_sum; }
};
template <int kThreads, typename Number, typename Fetch>
__device__ LogSum log_sum_of(int64_t packs, float* across, Fetch fetch) {
  constexpr int kPack = Pack<Number>::kCount;
  float most = -INFINITY, sum = 0;
#pragma unroll 4
  for (int64_t p = threadIdx.x; p < packs; p += kThreads) {
    const Pack<Number> pack = fetch(p);
    float logits[kPack], larger = most;
    bool is_nothing = most == -INFINITY;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      logits[i] = pack.numbers[i].value();
      larger = fmaxf(larger, logits[i]);
      is_nothing = is_nothing && logits[i] == -INFINITY;
    }
    if (is_nothing) continue;
    const float base = larger * kLog2OfE;
    sum *= fast_exp2(most * kLog2OfE - base);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum += fast_exp2(logits[i] * kLog2OfE - base);
    most = larger;
  }
  const float all = block_max(most, across);
  return {all, logf(block_sum(most > -INFINITY ? sum * fast_exp(most - all) : 0, across))};
}

// Gradients of logits lie within -1 and 1 before the loss's scale; as f16 they are held as multiples of
// 2^-14, so that what a rare word gets is not lost below the smallest number, and the products divide by as
// much.
template <typename Number>
constexpr float kMeasure = Number::kType == DType::f16 ? 0x1p14f : 1;

struct HeadRows {
  int64_t vocabulary, packs, stride;  // packs of a row, the last of which may reach beyond the vocabulary
  bool gradients;
  float share;  // of the teacher in the loss
  int64_t first;
  const int32_t* targets;
  Rows losses;
};

// A block for each row: its loss; then the gradient of each logit, before the loss's scale, in its place.
// Beyond the vocabulary it is zero.
template <int kThreads, typename Number>
void finish_rows(const HeadRows& head, int64_t count, Number* logits, const Number* taught) {
  constexpr int kPack = Pack<Number>::kCount;
  constexpr int64_t kSums = (kThreads / kWarpSize * 4 + 15) / 16 * 16;
  const int64_t row_bytes = head.packs * 16;
  const bool held = !taught && row_bytes <= kRoomForRow;
  launch<kThreads, kThreads == 512 ? 2 : 8>({count}, kSums + (held ? row_bytes : 0), [=] __device__() {
    auto* across = dynamic_shared<float>();
    auto* kept = reinterpret_cast<Number*>(dynamic_shared<char>() + kSums);
    const int64_t r = blockIdx.x;
    Number* own = logits + r * head.stride;
    const Number* other = taught ? taught + r * head.stride : nullptr;
    const int32_t target = head.targets[head.first + r];
    if (target < 0) {
      if (threadIdx.x == 0) head.losses[0][head.first + r] = 0;
      Pack<Number> zeros;
#pragma unroll
      for (int i = 0; i < kPack; ++i) zeros.numbers[i] = Number::of(0);
      for (int64_t p = threadIdx.x; head.gradients && p < head.packs; p += kThreads)
        pack_at(own + p * kPack) = zeros;
      return;
    }
    const auto pack_of = [&](const Number* row, int64_t p) {
      Pack<Number> pack = pack_at(row + p * kPack);
      if (p == head.packs - 1) {
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          if (p * kPack + i >= head.vocabulary) pack.numbers[i] = Number::of(-INFINITY);
      }
      return pack;
    };
    // A thread reads again the packs that it has kept itself.
    const LogSum q = log_sum_of<kThreads, Number>(head.packs, across, [&](int64_t p) {
      const Pack<Number> pack = pack_of(own, p);
      if (held) pack_at(kept + p * kPack) = pack;
      return pack;
    });
    float loss = (1 - head.share) * (q.log_sum - (own[target].value() - q.most));
    LogSum taught_sum = {};
    if (other) {
      taught_sum =
          log_sum_of<kThreads, Number>(head.packs, across, [&](int64_t p) { return pack_of(other, p); });
      float divergence = 0;
      for (int64_t v = threadIdx.x; v < head.vocabulary; v += kThreads) {
        const float log_p = other[v].value() - taught_sum.shift(), log_q = own[v].value() - q.shift();
        divergence += fast_exp(log_p) * (log_p - log_q);
      }
      loss += head.share * block_sum(divergence, across);
    }
    __syncthreads();  // all have read the target's logit
    if (threadIdx.x == 0) head.losses[0][head.first + r] = loss;
    if (!head.gradients) return;
    const float base = q.shift() * kLog2OfE, base_of_teacher = taught_sum.shift() * kLog2OfE;
#pragma unroll 4
    for (int64_t p = threadIdx.x; p < head.packs; p += kThreads) {
      Pack<Number> pack = held ? pack_at(kept + p * kPack) : pack_of(own, p);
      float d[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) d[i] = fast_exp2(pack.numbers[i].value() * kLog2OfE - base);
      if (other) {
        const Pack<Number> beside = pack_of(other, p);
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          d[i] -= head.share * fast_exp2(beside.numbers[i].value() * kLog2OfE - base_of_teacher);
      }
      if (p == target / kPack) {
#pragma unroll
        for (int i = 0; i < kPack; ++i)
          if (i == target % kPack) d[i] -= 1 - head.share;
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.numbers[i] = Number::of(d[i] * kMeasure<Number>);
      pack_at(own + p * kPack) = pack;
    }
  });
}

template <typename Number>
void finish_rows(const HeadRows& head, const Tensor& logits, const Tensor& taught) {
  auto* own = static_cast<Number*>(logits.data);
  const auto* other = static_cast<const Number*>(taught.data);
  if (head.vocabulary <= 1024) {
    finish_rows<32>(head, logits.rows, own, other);
  } else {
    finish_rows<512>(head, logits.rows, own, other);
  }
}

// Where products are in bf16, those of the head are of f16 numbers: as fast, and logits, which are held in
// it, keep 11 bits.
template <typename Number>
void run_in(Context& context, const LinearCrossEntropy& op) {
  constexpr bool rounds = Number::kType != DType::f32;
  constexpr int kPack = Pack<Number>::kCount;
  const int64_t vocabulary = op.weight.rows, rows = op.x.rows;
  const int64_t chunk = rows_at_once(vocabulary, Number::kType), most = std::min(chunk, rows);
  const bool teaches = static_cast<bool>(op.teacher.x);
  const int64_t packs = (vocabulary + kPack - 1) / kPack;
  HeadRows head{vocabulary,
                packs,
                packs * kPack,
                static_cast<bool>(op.dx),
                static_cast<float>(teaches ? op.teacher.share : 0),
                0,
                staged(op.targets.as<int32_t>(), rows),
                rows_of(op.losses)};
  // Rounded once, with rows of zeros up to whole packs of logits: products along the vocabulary want them.
  const auto weight_of = [&](const Tensor& weight) {
    if (!rounds) return weight;
    const Tensor narrow = aligned_scratch(context, head.stride, weight.cols, Number::kType);
    if constexpr (rounds) round_into<Number>(weight, narrow);
    return narrow;
  };
  const auto input_of = [&](const Tensor& x) {
    if constexpr (rounds) return rounded<Number>(context, x);
    return x;
  };
  const auto f32_of_packed = [&] {
    const UsePrecision exact(Precision::f32);
    return unpacked(context, op.packed, vocabulary, op.x.cols);
  };
  const Tensor weight = weight_of(op.packed ? f32_of_packed() : op.weight);
  const Tensor weight_of_teacher = teaches ? weight_of(op.teacher.weight) : Tensor{};
  const Tensor held = aligned_scratch(context, most, vocabulary, Number::kType);
  const Tensor held_of_teacher =
      teaches ? aligned_scratch(context, most, vocabulary, Number::kType) : Tensor{};
  // Products over as many words as whole packs have are fast; the gradient of the last few is summed beside
  // them, with what lies beyond the vocabulary.
  const int64_t whole = rounds ? vocabulary / kPack * kPack : vocabulary;
  Tensor rest;
  if (op.dweight && whole < vocabulary) {
    rest = scratch_tensor(context, head.stride - whole, op.weight.cols);
    const int64_t bytes = rest.size() * static_cast<int64_t>(sizeof(float));
    fill_zero(rest.data, 1, bytes, bytes);
  }
  for (int64_t first = 0; first < rows; first += chunk) {
    const ArenaScope scope(context.scratch);
    const int64_t count = std::min(chunk, rows - first);
    const auto padded = [&](const Tensor& logits) {
      Tensor wide = logits.rows_of(0, count);
      if (rounds) wide.cols = head.stride;
      return wide;
    };
    const Tensor logits = padded(held);
    const Tensor x = input_of(op.x.rows_of(first, count));
    multiply(context, {.a = x, .b = weight, .result = logits, .b_transposed = true});
    Tensor taught;
    if (teaches) {
      taught = padded(held_of_teacher);
      multiply(context, {.a = input_of(op.teacher.x.rows_of(first, count)),
                         .b = weight_of_teacher,
                         .result = taught,
                         .b_transposed = true});
    }
    head.first = first;
    finish_rows<Number>(head, logits, taught);
    if (!op.dx) continue;
    const auto scale = static_cast<float>(op.loss_scale) / kMeasure<Number>;
    multiply(context, {.a = logits, .b = weight, .result = op.dx.rows_of(first, count), .factor = scale});
    if (!op.dweight) continue;
    const auto add_words = [&](int64_t word, const Tensor& sum) {
      multiply(context, {.a = padded(held).columns(word, sum.rows),
                         .b = x,
                         .result = sum,
                         .a_transposed = true,
                         .factor = scale,
                         .base = sum});
    };
    add_words(0, op.dweight.rows_of(0, whole));
    if (rest) add_words(whole, rest);
  }
  if (!rest) return;
  const Rows from = rows_of(rest), to = rows_of(op.dweight);
  for_each_element(vocabulary - whole, rest.cols,
                   [=] __device__(int64_t word, int64_t c) { to[whole + word][c] += from[word][c]; });
}

}  // namespace

void run(Context& context, const LinearCrossEntropy& op) {
  if (precision() == Precision::bf16) {
    run_in<F16>(context, op);
  } else {
    run_in<F32>(context, op);
  }
}

}  // namespace harmonic::cuda
