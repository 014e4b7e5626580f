#include "harmonic/ops/linear.h"

#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harmonic/ops/linear_cpu.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void AddBias(int64_t count, const float* base, const float* bias, float* y) {
  const hn::CappedTag<float, 16> d;
  ForEach(d, count, Out(y), In(base, bias),
          [](auto base_v, auto bias_v, auto& yv) HWY_ATTR { yv = hn::Add(base_v, bias_v); });
}

// sums[c] += dy[0, c] + dy[1, c] + ..., rows in order.
void AddColumnSums(int64_t rows, int64_t count, const float* dy, int64_t stride, float* sums) {
  for (int64_t r = 0; r < rows; ++r) AddBias(count, sums, dy + r * stride, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/packed_rows.h"
#include "harmonic/ops/work_items.h"

namespace harmonic {

int64_t packed_weight_size(int64_t m, int64_t k, DType format, Device device) {
  if (device == Device::cpu) return packed_size(k, m, format);
  return format == DType::f32 ? 0 : packed_rows_size(m, k, format);
}

namespace {

// Of a card's.
void unpack_packed_row(const Tensor& packed, int64_t m, int64_t k, int64_t row, float* numbers) {
  const PackedRows rows = packed_rows_of(packed, m, k);
  const uint8_t* from = rows.data + row * rows.stride;
  for (int64_t i = 0; i < k; ++i) {
    if (rows.scales) {
      numbers[i] = rows.scales[row] * static_cast<float>(from[i] - kPackedZero);
    } else {
      uint16_t half;
      std::memcpy(&half, from + 2 * i, sizeof(half));
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(numbers + i, &bits, sizeof(bits));
    }
  }
}

}  // namespace

void unpack_row(const Tensor& packed, int64_t m, int64_t k, int64_t row, void* numbers) {
  if (packed.device != Device::cpu) {
    unpack_packed_row(packed, m, k, row, static_cast<float*>(numbers));
  } else if (packed.dtype == DType::f64) {
    std::memcpy(numbers, packed.as<double>() + row * k, static_cast<size_t>(k) * sizeof(double));
  } else {
    unpack_column({packed.data, k, m, packed.dtype}, row, static_cast<float*>(numbers));
  }
}

namespace cpu {
namespace {

HWY_EXPORT(AddBias);
HWY_EXPORT(AddColumnSums);

MatrixView view_of(const Tensor& tensor) { return {tensor.as<float>(), tensor.stride, 1}; }

void set_zero(ThreadPool& pool, const Tensor& y) {
  parallel_elements(pool, y.rows, y.cols, y.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    std::memset(y.row<float>(row) + column, 0, static_cast<size_t>(n) * sizeof(float));
  });
}

// y = base + bias, from which the products start. `bias` may be null.
void set_start(ThreadPool& pool, const Tensor& base, const Tensor& bias, const Tensor& y) {
  if (base.data == y.data && !bias) return;
  pool.parallel_ranges(y.rows, ceil_div(kElementGrain, y.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (bias) {
        HWY_DYNAMIC_DISPATCH(AddBias)(y.cols, base.row<float>(r), bias.as<float>(), y.row<float>(r));
      } else {
        std::memcpy(y.row<float>(r), base.row<float>(r), static_cast<size_t>(y.cols) * sizeof(float));
      }
    }
  });
}

void check(const Linear& op) {
  const int64_t R = op.x.rows, K = op.x.cols, M = op.y.cols;
  HARMONIC_ASSERT(op.y.rows == R && (op.weight || op.packed));
  HARMONIC_ASSERT(!op.weight || (op.weight.rows == M && op.weight.cols == K));
  HARMONIC_ASSERT(!op.packed || op.packed.cols == packed_weight_size(M, K, op.packed.dtype));
  HARMONIC_ASSERT(!op.bias || (op.bias.cols == M && !op.negate));
  HARMONIC_ASSERT(!op.base || same_shape(op.base, op.y));
  HARMONIC_ASSERT(!op.base || op.base.data != op.y.data || op.base.stride == op.y.stride || op.y.rows <= 1);
}

}  // namespace

void run(Context& context, const Linear& op) {
  check(op);
  const int64_t R = op.x.rows, K = op.x.cols, M = op.y.cols;
  if (op.y.size() == 0) return;
  MatmulMode mode = op.negate ? MatmulMode::subtract : MatmulMode::accumulate;
  const float* bias = nullptr;
  if (op.base) {
    set_start(context.pool, op.base, op.bias, op.y);
  } else if (op.negate) {
    set_zero(context.pool, op.y);
  } else {
    mode = MatmulMode::overwrite;
    bias = op.bias ? op.bias.as<float>() : nullptr;
  }
  if (op.packed) {
    matmul_packed(context.pool, context.scratch, R, view_of(op.x), {op.packed.data, K, M, op.packed.dtype},
                  op.y.as<float>(), op.y.stride, mode, bias, context.precision);
  } else {
    matmul(context.pool, context.scratch, R, M, K, view_of(op.x), view_of(op.weight).transposed(),
           op.y.as<float>(), op.y.stride, mode, bias, context.precision);
  }
}

void run(Context& context, const LinearBackward& op) {
  const Tensor &dy = op.dy, &dx = op.dx.to;
  const int64_t R = dy.rows, K = op.x.cols, M = dy.cols;
  HARMONIC_ASSERT(op.x.rows == R && op.weight.rows == M && op.weight.cols == K);
  HARMONIC_ASSERT(!dx || same_shape(op.x, dx));
  HARMONIC_ASSERT(!op.dweight || same_shape(op.weight, op.dweight));
  HARMONIC_ASSERT(!op.dbias || op.dbias.cols == M);
  const MatmulMode added = op.negate ? MatmulMode::subtract : MatmulMode::accumulate;
  if (dx) {
    if (op.negate && !op.dx.add) set_zero(context.pool, dx);
    matmul(context.pool, context.scratch, R, K, M, view_of(dy), view_of(op.weight), dx.as<float>(), dx.stride,
           op.negate || op.dx.add ? added : MatmulMode::overwrite, nullptr, context.precision);
  }
  if (op.dweight)
    matmul(context.pool, context.scratch, M, K, R, view_of(dy).transposed(), view_of(op.x),
           op.dweight.as<float>(), op.dweight.stride, added, nullptr, context.precision);
  if (op.dbias && R > 0) {
    // A thread owns columns, a whole number of cache lines, and walks all rows in order.
    const int64_t grain = round_up(ceil_div(kElementGrain, R), 16);
    context.pool.parallel_ranges(M, grain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(AddColumnSums)
      (R, end - begin, dy.as<float>() + begin, dy.stride, op.dbias.as<float>() + begin);
    });
  }
}

void run(Context& context, const PackWeight& op) {
  const int64_t M = op.weight.rows, K = op.weight.cols;
  HARMONIC_ASSERT(op.packed.dtype == op.format && op.packed.cols == packed_weight_size(M, K, op.format));
  const MatrixView transposed = view_of(op.weight).transposed();
  if (op.format == DType::f32) {
    pack_matrix(context.pool, K, M, transposed, op.packed.as<float>());
    return;
  }
  const ArenaScope scope(context.scratch);
  float* scales = context.scratch.allocate_array<float>(M);
  round_rows(context.pool, M, K, op.weight.stride, op.format, op.weight.as<float>(), scales);
  pack_narrow_matrix(context.pool, K, M, transposed, op.format, scales, op.packed.data);
}

}  // namespace cpu
}  // namespace harmonic
#endif  // HWY_ONCE
