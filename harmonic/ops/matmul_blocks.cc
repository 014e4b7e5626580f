// Packed matrices of blocks: how they are made of a file's blocks, and read back number by number.
#include <algorithm>
#include <cstring>

#include "harmonic/base/checked.h"
#include "harmonic/base/half.h"
#include "harmonic/ops/matmul_plan.h"

namespace harmonic {
namespace {

// d and m of a column within a block of a panel: m after the d of all columns.
uint8_t* scale_at(uint8_t* block, int64_t which, int64_t column) {
  return block + 2 * (which * kPanel + column);
}

float number_of_f16(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return float_of_f16(bits);
}

void put_q8_0(const uint8_t* from, int64_t column, uint8_t* block) {
  std::memcpy(scale_at(block, 0, column), from, 2);
  for (int64_t k = 0; k < kBlockNumbers; ++k) block[(2 + k) * kPanel + column] = from[2 + k];
}

// In the file byte i has numbers i and 16 + i; here byte j has numbers 2 j and 2 j + 1.
void put_q4_1(const uint8_t* from, int64_t column, uint8_t* block) {
  std::memcpy(scale_at(block, 0, column), from, 2);
  std::memcpy(scale_at(block, 1, column), from + 2, 2);
  const uint8_t* q = from + 4;
  for (int64_t j = 0; j < 8; ++j) {
    const int first = q[2 * j], second = q[2 * j + 1];
    block[(4 + j) * kPanel + column] = static_cast<uint8_t>((first & 15) | (second & 15) << 4);
    block[(12 + j) * kPanel + column] = static_cast<uint8_t>(first >> 4 | (second & 0xf0));
  }
}

void unpack_blocks(const PackedMatrix& packed, int64_t n, float* out) {
  const int64_t column = n % kPanel, block_bytes = panel_block_bytes(packed.dtype);
  const auto* block =
      static_cast<const uint8_t*>(packed.data) + n / kPanel * panel_bytes(packed.dtype, packed.K);
  for (int64_t k = 0; k < packed.K; k += kBlockNumbers, block += block_bytes) {
    const float d = number_of_f16(block + 2 * column);
    if (packed.dtype == DType::q8_0) {
      for (int64_t i = 0; i < kBlockNumbers; ++i)
        out[k + i] = static_cast<float>(static_cast<int8_t>(block[(2 + i) * kPanel + column])) * d;
      continue;
    }
    const float m = number_of_f16(block + 2 * (kPanel + column));
    for (int64_t i = 0; i < kBlockNumbers; ++i) {
      const int byte = block[(4 + i / 2) * kPanel + column];
      out[k + i] = d * static_cast<float>(i % 2 == 0 ? byte & 15 : byte >> 4) + m;
    }
  }
}

}  // namespace

PackedMatrix pack_blocks(ThreadPool& pool, int64_t K, int64_t N, const uint8_t* blocks, DType dtype,
                         void* out) {
  HARMONIC_ASSERT(is_blocks(dtype) && K >= 0 && N >= 0 && K % kBlockNumbers == 0);
  const int64_t row_blocks = K / kBlockNumbers, block_bytes = panel_block_bytes(dtype);
  const int64_t from_bytes = block_bytes / kPanel;
  pool.parallel_ranges(ceil_div(N, kPanel), 4, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      uint8_t* panel = static_cast<uint8_t*>(out) + p * panel_bytes(dtype, K);
      const int64_t columns = std::min(kPanel, N - p * kPanel);
      if (columns < kPanel) std::memset(panel, 0, static_cast<size_t>(panel_bytes(dtype, K)));
      for (int64_t c = 0; c < columns; ++c) {
        const uint8_t* from = blocks + (p * kPanel + c) * row_blocks * from_bytes;
        for (int64_t b = 0; b < row_blocks; ++b)
          (dtype == DType::q8_0 ? put_q8_0 : put_q4_1)(from + b * from_bytes, c, panel + b * block_bytes);
      }
    }
  });
  return {out, K, N, dtype};
}

void unpack_column(const PackedMatrix& packed, int64_t n, float* out) {
  HARMONIC_ASSERT(n >= 0 && n < packed.N);
  if (is_blocks(packed.dtype)) return unpack_blocks(packed, n, out);
  const int64_t at = n / kPanel * packed.K * kPanel + n % kPanel;
  if (packed.dtype == DType::f32) {
    const float* from = static_cast<const float*>(packed.data) + at;
    for (int64_t k = 0; k < packed.K; ++k) out[k] = from[k * kPanel];
  } else if (packed.dtype == DType::bf16) {
    const uint16_t* from = static_cast<const uint16_t*>(packed.data) + at;
    for (int64_t k = 0; k < packed.K; ++k) out[k] = float_of_bf16(from[k * kPanel]);
  } else {
    HARMONIC_ASSERT(packed.dtype == DType::i8);
    const int8_t* from = static_cast<const int8_t*>(packed.data) + at;
    const float scale = scales_of(packed)[n];
    for (int64_t k = 0; k < packed.K; ++k) out[k] = static_cast<float>(from[k * kPanel]) * scale;
  }
}

}  // namespace harmonic
