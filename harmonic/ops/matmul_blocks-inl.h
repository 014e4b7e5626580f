// The per-target part of packed matrices of blocks: a vector of columns at one k, as floats.

#if defined(HARMONIC_OPS_MATMUL_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_MATMUL_BLOCKS_INL_H_
#undef HARMONIC_OPS_MATMUL_BLOCKS_INL_H_
#else
#define HARMONIC_OPS_MATMUL_BLOCKS_INL_H_
#endif

#include <hwy/highway.h>

#include "harmonic/ops/matmul_pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

// Every product d q is exact, so that d q + m is rounded once whether it is fused or not.
HWY_INLINE Vector LoadF16(const uint8_t* from) {
  const hn::Rebind<hwy::float16_t, Tag> d16;
  return hn::PromoteTo(Tag(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(from)));
}

// What is the same for all k of a block, of the columns of a panel from `lane` on.
struct BlocksQ8_0 {
  static constexpr DType kDType = DType::q8_0;
  static constexpr int64_t kNumbersOfByte = 1;
  Vector d;

  HWY_INLINE void Begin(const uint8_t* block, int64_t lane) { d = LoadF16(block + 2 * lane); }
  // Number `part` of byte `byte` of each column.
  HWY_INLINE Vector Load(const uint8_t* block, int64_t lane, int64_t byte, int64_t) const {
    const hn::RebindToSigned<Tag> d32;
    const hn::Rebind<int8_t, Tag> d8;
    const auto q = hn::LoadU(d8, reinterpret_cast<const int8_t*>(block + (2 + byte) * kPanel + lane));
    return hn::Mul(hn::ConvertTo(Tag(), hn::PromoteTo(d32, q)), d);
  }
};

struct BlocksQ4_1 {
  static constexpr DType kDType = DType::q4_1;
  static constexpr int64_t kNumbersOfByte = 2;
  Vector d, m;

  HWY_INLINE void Begin(const uint8_t* block, int64_t lane) {
    d = LoadF16(block + 2 * lane);
    m = LoadF16(block + 2 * (kPanel + lane));
  }
  HWY_INLINE Vector Load(const uint8_t* block, int64_t lane, int64_t byte, int64_t part) const {
    const hn::RebindToSigned<Tag> d32;
    const hn::Rebind<uint8_t, Tag> d8;
    const auto both = hn::PromoteTo(d32, hn::LoadU(d8, block + (4 + byte) * kPanel + lane));
    const auto q = part == 0 ? hn::And(both, hn::Set(d32, 15)) : hn::ShiftRight<4>(both);
    return hn::MulAdd(hn::ConvertTo(Tag(), q), d, m);
  }
};

// k [k_begin, k_begin + k_count) of a panel of blocks as floats, [k][16].
template <class Blocks>
void WidenBlocks(const uint8_t* panel, int64_t k_begin, int64_t k_count, float* out) {
  const int64_t bytes = panel_block_bytes(Blocks::kDType), k_end = k_begin + k_count;
  for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
    for (int64_t k = k_begin; k < k_end;) {
      const uint8_t* block = panel + k / kBlockNumbers * bytes;
      Blocks blocks;
      blocks.Begin(block, lane);
      const int64_t first = k / kBlockNumbers * kBlockNumbers, end = std::min(k_end, first + kBlockNumbers);
      for (; k < end; ++k) {
        const int64_t i = k - first;
        hn::StoreU(blocks.Load(block, lane, i / Blocks::kNumbersOfByte, i % Blocks::kNumbersOfByte), Tag(),
                   out + (k - k_begin) * kPanel + lane);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
