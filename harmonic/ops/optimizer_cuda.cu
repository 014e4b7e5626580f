#include "harmonic/ops/optimizer.h"

#include <cmath>

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

// Of all elements, in double: parts of so many by a block each, then the parts by one.
void sum_of_squares(Context& context, const Tensor& tensor, double* result) {
  const Rows x = rows_of(tensor);
  const bool is_one_row = tensor.rows <= 1 || tensor.stride == tensor.cols;
  const int64_t count = tensor.size(), columns = tensor.cols;
  const int64_t chunks = std::max<int64_t>(1, (count + kSumChunk - 1) / kSumChunk);
  auto* partial = context.scratch.tensor(1, chunks, DType::f64).as<double>();
  launch<kThreads>({chunks}, kThreads * 8, [=] __device__() {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kSumChunk;
    sum_by_block(
        first, first + kSumChunk < count ? first + kSumChunk : count,
        [&](int64_t i) {
          const int64_t r = is_one_row ? 0 : quotient(i, columns);
          const double number = x[r][i - r * columns];
          return number * number;
        },
        partial + blockIdx.x);
  });
  launch<kThreads>({1}, kThreads * 8, [=] __device__() {
    sum_by_block(
        0, chunks, [&](int64_t i) { return partial[i]; }, result);
  });
}

}  // namespace

void run(Context& context, const SumOfSquares& op) { sum_of_squares(context, op.x, op.result); }

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

// Five times X = a X + (b A + c A A) X with A = X X^T, from X = M / ||M||; of a matrix with more rows than
// columns, the transposed. Products are in the backend's precision.
void run(Context& context, const Muon& op) {
  const int64_t rows = op.value.rows, columns = op.value.cols;
  const bool tall = rows > columns;
  const int64_t side = tall ? columns : rows, length = tall ? rows : columns;
  const Rows value = rows_of(op.value), grad = rows_of(op.grad), m = rows_of(op.m);
  const auto scale = static_cast<float>(op.gradient_scale), momentum = static_cast<float>(op.momentum);
  Tensor x = scratch_tensor(context, side, length), next = scratch_tensor(context, side, length);
  {
    const Rows to = rows_of(x);
    for_each_element(op.value.rows, columns, [=] __device__(int64_t r, int64_t c) {
      const float g = scale * grad[r][c], moved = momentum * m[r][c] + g;
      m[r][c] = moved;
      grad[r][c] = 0;
      (tall ? to[c][r] : to[r][c]) = g + momentum * moved;
    });
  }
  auto* squares = context.scratch.tensor(1, 1, DType::f64).as<double>();
  sum_of_squares(context, x, squares);
  {
    const Rows to = rows_of(x);
    for_each_element(side, length, [=] __device__(int64_t r, int64_t c) {
      float& number = to[r][c];
      // Of a matrix of zeros, zeros.
      number = *squares > 0 ? static_cast<float>(number / sqrt(*squares)) : 0;
    });
  }
  const Tensor gram = scratch_tensor(context, side, side), square = scratch_tensor(context, side, side);
  for (int step = 0; step < 5; ++step) {
    multiply(context, {.a = x, .b = x, .result = gram, .b_transposed = true});
    multiply(context, {.a = gram, .b = gram, .result = square});
    const Rows a = rows_of(gram), aa = rows_of(square), from = rows_of(x), to = rows_of(next);
    for_each_element(gram.rows, side, [=] __device__(int64_t r, int64_t c) {
      aa[r][c] = -4.7750f * a[r][c] + 2.0315f * aa[r][c];
    });
    for_each_element(side, length, [=] __device__(int64_t r, int64_t c) { to[r][c] = 3.4445f * from[r][c]; });
    multiply(context, {.a = square, .b = x, .result = next, .base = next});
    std::swap(x, next);
  }
  const Rows o = rows_of(x);
  const auto kept = static_cast<float>(1 - op.lr * op.weight_decay);
  const auto size = static_cast<float>(
      op.lr * std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns))));
  for_each_element(op.value.rows, columns, [=] __device__(int64_t r, int64_t c) {
    value[r][c] = value[r][c] * kept - size * (tall ? o[c][r] : o[r][c]);
  });
}

}  // namespace harmonic::cuda
