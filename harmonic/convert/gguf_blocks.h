// The number formats of GGUF tensors that are read: plain ones, and blocks of small integers with scales.
//
// A block, little-endian, d and m being f16:
//   Q8_0  32 numbers: d, 32 i8 q                      d q
//   Q4_0  32 numbers: d, 16 bytes of two q            d (q - 8)         the low halves first, then the high
//   ones Q4_1  32 numbers: d, m, 16 bytes of two q         d q + m           likewise Q4_K  256 numbers: d,
//   m, 12 bytes of 8 pairs of six bits (s, t), 128 bytes of two q      d s q - m t Q6_K  256 numbers: 128
//   bytes of low halves, 64 of upper pairs of bits, 16 i8 s, d        d s (q - 32)
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace harmonic {

struct GgufType {
  uint32_t id = 0;  // as the files number it
  std::string_view name;
  int64_t block = 1, bytes = 4;  // numbers of a block, and the bytes it takes
};

// Throws Error beginning with `what` for a type that is not read, by its name where it has one.
const GgufType& gguf_type(uint32_t id, std::string_view what);

// Writes `count` numbers, a multiple of the type's block, from as many blocks at `bytes`. Bit for bit what
// ggml's own program in Python makes of them: products and sums are rounded one by one.
void dequantise(const GgufType& type, std::span<const uint8_t> bytes, int64_t count, float* numbers);

}  // namespace harmonic
