// The number formats of GGUF tensors that are read: plain ones, and blocks of small integers with scales.
//
// A block, little-endian, d and m being f16, q the small integers:
//   Q8_0: 32 numbers d q: d, then 32 i8.
//   Q4_0: 32 numbers d (q - 8): d, then 16 bytes with two q each, the lower halves first.
//   Q4_1: 32 numbers d q + m: d, m, then as Q4_0.
//   Q4_K: 256 numbers d s q - m t: d, m, 12 bytes of six bits s and t for each 32, 128 bytes of two q.
//   Q6_K: 256 numbers d s (q - 32): 128 bytes of lower halves, 64 of upper pairs of bits, 16 i8 s, d.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "harmonic/tensor/tensor.h"

namespace harmonic {

struct GgufType {
  uint32_t id = 0;  // as the files number it
  std::string_view name;
  int64_t block = 1, bytes = 4;  // numbers of a block, and the bytes it takes
  // The packed form that holds such blocks as they are (ops/matmul.h), where there is one.
  std::optional<DType> kept = {};
};

// Throws Error beginning with `what` for a type that is not read, by its name where it has one.
const GgufType& gguf_type(uint32_t id, std::string_view what);

// Whether every scale of blocks of type Q8_0 or Q4_1, and so every number, is finite.
bool blocks_are_finite(const GgufType& type, std::span<const uint8_t> bytes);

// Writes `count` numbers, a multiple of the type's block, from as many blocks at `bytes`. Bit for bit what
// ggml's own program in Python makes of them: products and sums are rounded one by one.
void dequantise(const GgufType& type, std::span<const uint8_t> bytes, int64_t count, float* numbers);

}  // namespace harmonic
