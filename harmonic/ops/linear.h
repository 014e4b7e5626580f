// y = base + x W^T + bias.  Matrices are [out, in], as PyTorch keeps them.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// On the cpu every element is one chain of fused multiply-adds over k in order that starts from base + bias.
// On the bf16 backends (backend.h) x, weight and dy are rounded as operands of the products, forward and
// backward: weight and x for y, dy and weight for dx, dy and x for dweight. dbias sums dy as it is. On a card
// x, of more than a few rows (64), and the weight's packed form may both hold bf16 numbers, which are taken
// as they are.
struct Linear {
  Tensor x;             // [R, K]
  Tensor weight;        // [M, K]; without data where `packed` holds it
  Tensor packed;        // or null: weight in the backend's packed form (PackWeight), same result
  Tensor bias;          // [1, M] or null
  Tensor base;          // [R, M] or null; may be y itself
  bool negate = false;  // y = base - x W^T (no bias then)
  Tensor y;             // [R, M]
};

struct LinearBackward {
  Tensor x, weight;
  bool negate = false;
  Tensor dy;       // [R, M]; the gradient of base is dy itself
  Gradient dx;     // [R, K]
  Tensor dweight;  // [M, K] or null, +=
  Tensor dbias;    // [1, M] or null, +=
};

// Writes the packed form of weight [M, K] to `packed`, which has packed_weight_size(M, K, format, device)
// elements in one row. It saves packing at each product: for weights that are used many times on few rows.
// With another format than f32 the weight itself is rounded first, in place, to what the format holds
// (round_rows in matmul.h), so that both still give the same results: bf16, or i8 with a scale for each of
// the M rows. The reference backend's packed form is a copy of the weight. A card has none of f32: `packed`
// is null.
struct PackWeight {
  Tensor weight;
  Tensor packed;  // but on the reference of dtype `format`
  DType format = DType::f32;
};
// 0 where there is none.
int64_t packed_weight_size(int64_t m, int64_t k, DType format = DType::f32, Device device = Device::cpu);
// Row `row` of the weight [m, k] whose packed form is given, where its device says: k numbers, f32 or of the
// reference f64.
void unpack_row(const Tensor& packed, int64_t m, int64_t k, int64_t row, void* numbers);

HARMONIC_DECLARE_OP(Linear);
HARMONIC_DECLARE_OP(LinearBackward);
HARMONIC_DECLARE_OP(PackWeight);

}  // namespace harmonic
