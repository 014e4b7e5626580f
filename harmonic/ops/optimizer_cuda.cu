#include "harmonic/ops/optimizer.h"

#include <cmath>
#include <vector>

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {
namespace {

// Numbers that one block adds up.
constexpr int64_t kSumChunk = 4096;
constexpr int kThreads = 128;

// *result = the sum of number(i) for first <= i < last, by the threads of a block, always in the same order.
template <typename Number>
__device__ void sum_by_block(int64_t first, int64_t last, Number number, double* result) {
  auto* sums = dynamic_shared<double>();
  double sum = 0;
#pragma unroll 8
  for (int64_t i = first + threadIdx.x; i < last; i += kThreads) sum += number(i);
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *result = sums[0];
}

// A tensor that a kernel adds up.
struct Summed {
  Rows x;
  int64_t count, columns;  // numbers; of a row, or of all where they lie together
};

// A matrix that Muon updates.
struct Matrix {
  Rows value, grad, m;
};

// Of each tensor, in double: parts of so many numbers by a block each, then a tensor's parts by one.
void sum_squares(Context& context, const std::vector<Tensor>& tensors, double* results) {
  const auto count = static_cast<int64_t>(tensors.size());
  std::vector<Summed> all;
  std::vector<int64_t> offsets = {0};  // of the parts
  for (const Tensor& tensor : tensors) {
    all.push_back({rows_of(tensor), tensor.size(), tensor.contiguous() ? tensor.size() : tensor.cols});
    offsets.push_back(offsets.back() + (tensor.size() + kSumChunk - 1) / kSumChunk);
  }
  const Summed* summed = staged(all.data(), count);
  const SegmentRows parts = staged(Segments{offsets.data(), count});
  auto* sums = context.scratch.tensor(1, std::max<int64_t>(1, offsets.back()), DType::f64).as<double>();
  launch<kThreads>({offsets.back()}, kThreads * 8, [=] __device__() {
    const int64_t part = blockIdx.x, which = parts.of(part);
    const Summed& of = summed[which];
    const int64_t first = (part - parts.begin(which)) * kSumChunk;
    sum_by_block(
        first, first + kSumChunk < of.count ? first + kSumChunk : of.count,
        [&](int64_t i) {
          const int64_t r = of.columns == of.count ? 0 : quotient(i, of.columns);
          const double number = of.x[r][i - r * of.columns];
          return number * number;
        },
        sums + part);
  });
  launch<kThreads>({count}, kThreads * 8, [=] __device__() {
    const int64_t first = parts.begin(blockIdx.x);
    sum_by_block(
        first, first + parts.length(blockIdx.x), [&](int64_t i) { return sums[i]; }, results + blockIdx.x);
  });
}

}  // namespace

void run(Context& context, const SumsOfSquares& op) {
  sum_squares(context, {op.tensors, op.tensors + op.count}, op.results);
}

void run(Context&, const AdamW& op) {
  const Rows value = rows_of(op.value), grad = rows_of(op.grad), m = rows_of(op.m), v = rows_of(op.v);
  const int64_t columns = op.value.cols;
  const double step = static_cast<double>(op.step);
  const auto beta1 = static_cast<float>(op.beta1), beta2 = static_cast<float>(op.beta2);
  const auto rest1 = static_cast<float>(1 - op.beta1), rest2 = static_cast<float>(1 - op.beta2);
  const auto scale = static_cast<float>(op.gradient_scale), epsilon = static_cast<float>(op.epsilon);
  const auto correction2 = static_cast<float>(1 / (1 - std::pow(op.beta2, step)));
  const auto rate = static_cast<float>(op.lr / (1 - std::pow(op.beta1, step)));
  const auto kept = static_cast<float>(1 - op.lr * op.weight_decay);
  const auto update = [=] __device__(float& number, float& gradient, float& moment, float& square) {
    const float g = scale * gradient;
    moment = beta1 * moment + rest1 * g;
    square = beta2 * square + rest2 * g * g;
    number = number * kept - rate * moment / (sqrtf(square * correction2) + epsilon);
    gradient = 0;
  };
  constexpr int kPack = Pack<float>::kCount;
  if (lies_in_packs(op.value) && lies_in_packs(op.grad) && lies_in_packs(op.m) && lies_in_packs(op.v)) {
    for_each_element(op.value.rows, columns / kPack, [=] __device__(int64_t r, int64_t p) {
      const int64_t c = p * kPack;
      Pack<float> numbers = pack_at(value[r] + c), gradients = pack_at(grad[r] + c);
      Pack<float> moments = pack_at(m[r] + c), squares = pack_at(v[r] + c);
#pragma unroll
      for (int i = 0; i < kPack; ++i)
        update(numbers.numbers[i], gradients.numbers[i], moments.numbers[i], squares.numbers[i]);
      pack_at(value[r] + c) = numbers;
      pack_at(grad[r] + c) = gradients;
      pack_at(m[r] + c) = moments;
      pack_at(v[r] + c) = squares;
    });
    return;
  }
  for_each_element(op.value.rows, columns, [=] __device__(int64_t r, int64_t c) {
    update(value[r][c], grad[r][c], m[r][c], v[r][c]);
  });
}

// Five times X = a X + (b A + c A A) X with A = X X^T, from X = M / ||M||; of matrices with more rows than
// columns, the transposed. Products are in the backend's precision, and of all matrices at once.
void run(Context& context, const Muon& op) {
  if (op.count == 0) return;
  const int64_t count = op.count, rows = op.matrices[0].value.rows, columns = op.matrices[0].value.cols;
  const bool tall = rows > columns;
  const int64_t side = tall ? columns : rows, length = tall ? rows : columns;
  std::vector<Matrix> all;
  for (int64_t i = 0; i < count; ++i) {
    const MuonMatrix& matrix = op.matrices[i];
    for (const Tensor* tensor : {&matrix.value, &matrix.grad, &matrix.m})
      HARMONIC_ASSERT(tensor->rows == rows && tensor->cols == columns);
    all.push_back({rows_of(matrix.value), rows_of(matrix.grad), rows_of(matrix.m)});
  }
  const Matrix* matrices = staged(all.data(), count);
  const auto scale = static_cast<float>(op.gradient_scale), momentum = static_cast<float>(op.momentum);
  // One after the other.
  Tensor x = scratch_tensor(context, count * side, length),
         next = scratch_tensor(context, count * side, length);
  // Where number (r, c) of matrix n lies in them.
  const auto place = [=] __host__ __device__(int64_t n, int64_t r, int64_t c) {
    return tall ? (n * side + c) * length + r : (n * side + r) * length + c;
  };
  {
    float* to = x.as<float>();
    for_each_element(count * rows, columns, [=] __device__(int64_t i, int64_t c) {
      const int64_t n = quotient(i, rows), r = i - n * rows;
      const Matrix& matrix = matrices[n];
      const float g = scale * matrix.grad[r][c], moved = momentum * matrix.m[r][c] + g;
      matrix.m[r][c] = moved;
      matrix.grad[r][c] = 0;
      to[place(n, r, c)] = g + momentum * moved;
    });
  }
  auto* squares = context.scratch.tensor(1, count, DType::f64).as<double>();
  {
    std::vector<Tensor> parts;
    for (int64_t n = 0; n < count; ++n) parts.push_back(x.rows_of(n * side, side));
    sum_squares(context, parts, squares);
    const Rows to = rows_of(x);
    for_each_element(count * side, length, [=] __device__(int64_t i, int64_t c) {
      const double sum = squares[quotient(i, side)];
      // Of a matrix of zeros, zeros.
      to[i][c] = sum > 0 ? static_cast<float>(to[i][c] / sqrt(sum)) : 0;
    });
  }
  const Tensor gram = scratch_tensor(context, count * side, side),
               square = scratch_tensor(context, count * side, side);
  for (int step = 0; step < 5; ++step) {
    multiply(context, {.a = x, .b = x, .result = gram, .b_transposed = true, .batch = count});
    multiply(context, {.a = gram, .b = gram, .result = square, .batch = count});
    const Rows a = rows_of(gram), aa = rows_of(square), from = rows_of(x), to = rows_of(next);
    for_each_element(gram.rows, side, [=] __device__(int64_t r, int64_t c) {
      aa[r][c] = -4.7750f * a[r][c] + 2.0315f * aa[r][c];
    });
    for_each_element(x.rows, length,
                     [=] __device__(int64_t r, int64_t c) { to[r][c] = 3.4445f * from[r][c]; });
    multiply(context, {.a = square, .b = x, .result = next, .base = next, .batch = count});
    std::swap(x, next);
  }
  const float* o = x.as<float>();
  const auto kept = static_cast<float>(1 - op.lr * op.weight_decay);
  const auto size = static_cast<float>(
      op.lr * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns))));
  for_each_element(count * rows, columns, [=] __device__(int64_t i, int64_t c) {
    const int64_t n = quotient(i, rows), r = i - n * rows;
    float& number = matrices[n].value[r][c];
    number = number * kept - size * o[place(n, r, c)];
  });
}

}  // namespace harmonic::cuda
