#include "harmonic/convert/gguf_blocks.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#include "harmonic/base/error.h"
#include "harmonic/base/half.h"

namespace harmonic {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie");

constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kQ4_K = 12, kQ6_K = 14, kBF16 = 30;
constexpr int64_t kSmall = 32, kLarge = 256;  // numbers of a block

constexpr GgufType kTypes[] = {
    {kF32, "F32", 1, 4},
    {kF16, "F16", 1, 2},
    {kQ4_0, "Q4_0", kSmall, 18},
    {kQ4_1, "Q4_1", kSmall, 20, DType::q4_1},
    {kQ8_0, "Q8_0", kSmall, 34, DType::q8_0},
    {kQ4_K, "Q4_K", kLarge, 144},
    {kQ6_K, "Q6_K", kLarge, 210},
    {kBF16, "BF16", 1, 2},
};

// Those that exist, by number; an empty name is a number that was given up.
constexpr std::string_view kNames[] = {
    "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
    "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
    "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};

uint16_t u16_at(const uint8_t* bytes) {
  uint16_t number;
  std::memcpy(&number, bytes, sizeof number);
  return number;
}
float f16_at(const uint8_t* bytes) { return float_of_f16(u16_at(bytes)); }
float of_i8(uint8_t byte) { return static_cast<float>(static_cast<int8_t>(byte)); }

void q4_0_block(const uint8_t* block, float* out) {
  const float d = f16_at(block);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[2 + i];
    out[i] = d * static_cast<float>((byte & 15) - 8);
    out[16 + i] = d * static_cast<float>((byte >> 4) - 8);
  }
}

void q4_1_block(const uint8_t* block, float* out) {
  const float d = f16_at(block), m = f16_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[4 + i];
    out[i] = d * static_cast<float>(byte & 15) + m;
    out[16 + i] = d * static_cast<float>(byte >> 4) + m;
  }
}

void q8_0_block(const uint8_t* block, float* out) {
  const float d = f16_at(block);
  for (int i = 0; i < kSmall; ++i) out[i] = of_i8(block[2 + i]) * d;
}

// Of the 12 bytes, the first four hold s and the next four t of groups 0 to 3 in their lower six bits; the
// upper two are the top of s and t of groups 4 to 7, whose lower four bits share the last four bytes.
void q4_k_block(const uint8_t* block, float* out) {
  const float d = f16_at(block), m = f16_at(block + 2);
  const uint8_t *packed = block + 4, *q = block + 16;
  for (int group = 0; group < 8; ++group) {
    const int i = group % 4;
    const int s = group < 4 ? packed[i] & 63 : (packed[8 + i] & 15) | (packed[i] >> 6) << 4;
    const int t = group < 4 ? packed[4 + i] & 63 : packed[8 + i] >> 4 | (packed[4 + i] >> 6) << 4;
    const float scale = d * static_cast<float>(s), least = m * static_cast<float>(t);
    const uint8_t* bytes = q + group / 2 * 32;
    for (int k = 0; k < 32; ++k) {
      const int number = group % 2 == 0 ? bytes[k] & 15 : bytes[k] >> 4;
      out[group * 32 + k] = scale * static_cast<float>(number) - least;
    }
  }
}

// Two halves of 128 numbers, each in four runs of 32 that share 64 bytes of low parts and 32 of upper ones.
void q6_k_block(const uint8_t* block, float* out) {
  const float d = f16_at(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half, *s = block + 192 + 8 * half;
    for (int run = 0; run < 4; ++run)
      for (int k = 0; k < 32; ++k) {
        const int byte = low[run % 2 * 32 + k], bits = run < 2 ? byte & 15 : byte >> 4;
        const int number = (bits | (high[k] >> (2 * run) & 3) << 4) - 32;
        const float scale = d * of_i8(s[2 * run + k / 16]);
        out[half * 128 + run * 32 + k] = scale * static_cast<float>(number);
      }
  }
}

template <typename Convert>
void each(const GgufType& type, const uint8_t* bytes, int64_t count, float* out, const Convert& convert) {
  for (int64_t i = 0; i < count / type.block; ++i) convert(bytes + i * type.bytes, out + i * type.block);
}

}  // namespace

const GgufType& gguf_type(uint32_t id, std::string_view what) {
  const auto* found =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const GgufType& t) { return t.id == id; });
  if (found != std::end(kTypes)) return *found;
  const std::string_view name = id < std::size(kNames) ? kNames[id] : std::string_view();
  fail(
      "{} is of type {}{}; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are read: get the model in one of "
      "them",
      what, id, name.empty() ? std::string() : " (" + std::string(name) + ")");
}

bool blocks_are_finite(const GgufType& type, std::span<const uint8_t> bytes) {
  HARMONIC_ASSERT(type.kept);
  const size_t scales = type.id == kQ4_1 ? 2 : 1;
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(type.bytes))
    for (size_t i = 0; i < scales; ++i)
      if ((u16_at(bytes.data() + at + 2 * i) & 0x7c00) == 0x7c00) return false;
  return true;
}

void dequantise(const GgufType& type, std::span<const uint8_t> bytes, int64_t count, float* numbers) {
  HARMONIC_ASSERT(count % type.block == 0 &&
                  static_cast<int64_t>(bytes.size()) == count / type.block * type.bytes);
  if (count == 0) return;
  const uint8_t* from = bytes.data();
  switch (type.id) {
    case kF32:
      std::memcpy(numbers, from, bytes.size());
      return;
    case kF16:
      return each(type, from, count, numbers, [](const uint8_t* b, float* out) { *out = f16_at(b); });
    case kBF16:
      return each(type, from, count, numbers,
                  [](const uint8_t* b, float* out) { *out = float_of_bf16(u16_at(b)); });
    case kQ4_0:
      return each(type, from, count, numbers, q4_0_block);
    case kQ4_1:
      return each(type, from, count, numbers, q4_1_block);
    case kQ8_0:
      return each(type, from, count, numbers, q8_0_block);
    case kQ4_K:
      return each(type, from, count, numbers, q4_k_block);
    case kQ6_K:
      return each(type, from, count, numbers, q6_k_block);
    default:
      HARMONIC_ASSERT(false);
  }
}

}  // namespace harmonic
